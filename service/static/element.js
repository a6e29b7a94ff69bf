/**
 * A new element with properties (or attributes, where there is no such property) and children; text is never read as
 * markup.
 */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.flat());
  return made;
}

/** The same for SVG, which has attributes only. */
export function drawing(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A share of a whole as a bar; the number beside it says the same. */
export function bar(share, kind) {
  const made = element("span", { className: `bar ${kind}`, ariaHidden: "true" });
  made.style.setProperty("--share", Math.min(1, Math.max(0, share)));
  return made;
}

export const byId = (id) => document.getElementById(id);
