import { element } from "./element.js";
import { brief, percent } from "./format.js";
import { smallPicture } from "./pictures.js";
import { headline } from "./words.js";

/** A small card: made once, and filled with one item after the other. */

let made = 0;
const parts = new WeakMap();

export function makeCell() {
  const image = element("img", { alt: "", hidden: true });
  const none = element("span", { className: "none", hidden: true }, "no preview");
  const mark = element("span", { className: "mark" });
  const open = element("span", { className: "open", ariaHidden: "true" }, "⤢");
  const text = element("strong");
  const more = element("span", { className: "more" });
  const cell = element("div", { className: "cell", id: `cell-${made += 1}`, role: "gridcell" },
    element("span", { className: "shot" }, image, none, mark, open), text, more);
  parts.set(cell, { image, none, mark, text, more, item: null, url: null });
  return cell;
}

/** The item that a cell shows; null where it shows none. */
export const itemOf = (cell) => parts.get(cell)?.item ?? null;

/** The line below the headline. */
function below({ state, said, problem }) {
  if (state === "failed") return problem.detail;
  if (!said) return "";
  const { standing, label, probability, differs, network, cache } = said;
  if (standing === "unknown") return `guess: ${label}, ${brief(probability)}`;
  return differs ? `${network.label} ≠ ${cache.label}` : percent(probability);
}

const WITHOUT = { waiting: "…", untold: "Not known yet", failed: "No answer" };

/** Draw an item in a cell; null = the cell is empty. */
export function fillCell(cell, item, isActive) {
  const part = parts.get(cell);
  cell.classList.toggle("blank", !item);
  if (!item) {
    part.item = null;
    cell.removeAttribute("aria-label");
    cell.removeAttribute("aria-selected");
    return;
  }
  const isOther = part.item !== item;
  part.item = item;
  const { said, label, taught, refusal } = item;
  const text = said ? headline(said.standing, said.label, said.probability).text : WITHOUT[item.state];
  const more = below(item);
  const given = refusal ? "not taught" : label === null ? "" : label;
  part.text.textContent = text;
  part.more.textContent = more;
  part.mark.textContent = given && (item.isPending ? `${given} …` : refusal ? given : `✓ ${given}`);
  cell.title = item.name;
  cell.dataset.standing = said?.standing ?? "";
  cell.dataset.state = item.state;
  cell.classList.toggle("active", isActive);
  cell.classList.toggle("given", Boolean(given));
  cell.setAttribute("aria-selected", String(item.isSelected));
  const spoken = [item.name, said?.standing, text, more, taught && !item.isPending ? `taught ${taught.label}` : given];
  cell.setAttribute("aria-label", spoken.filter(Boolean).join(", "));
  if (!isOther) return;
  part.image.hidden = true;
  part.none.hidden = true;
  smallPicture(item, (url) => {
    part.image.hidden = !url;
    part.none.hidden = Boolean(url);
    if (url) part.image.src = url;
  }, () => part.item === item);
}
