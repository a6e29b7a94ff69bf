import { bar, element } from "./element.js";
import { openEntry, picture } from "./entry.js";
import { brief, percent } from "./format.js";

const KEYS = { r: "right", l: "suggested", x: "remove", ArrowRight: "later" };

function key(name) {
  return element("kbd", { ariaHidden: "true" }, name);
}

/** One suspect at a time: its picture, its label, what its neighbours say, and what can be decided. */
export class SuspectPanel {
  /** `act(what, label)` is called with right, relabel, remove, undo or later. */
  constructor(act) {
    this.act = act;
    this.suspect = null;
    this.title = element("h3", { id: "suspect-title", tabIndex: -1 });
    this.picture = element("div", { className: "shown" });
    this.votes = element("dl", { className: "votes" });
    this.facts = element("p", { className: "soft" });
    this.list = element("ul", { className: "tiles near", ariaLabel: "Nearest known images" });
    this.right = this.#button("r", "R", "primary", () => act("right"));
    this.suggested = this.#button("l", "L", "quiet", () => act("relabel", this.suspect.suggested));
    this.remove = this.#button("x", "X", "danger", () => this.#remove());
    this.later = this.#button("ArrowRight", "→", "quiet", () => act("later"));
    this.later.append("Later");
    this.field = element("input", { id: "suspect-label", maxLength: 100, autocomplete: "off", spellcheck: false });
    this.field.setAttribute("list", "labels");
    const other = element("form", { className: "row other" },
      element("label", { htmlFor: "suspect-label" }, "It is something else"), this.field,
      element("button", { className: "quiet" }, "Relabel"));
    other.addEventListener("submit", (event) => {
      event.preventDefault();
      const label = this.field.value.trim();
      if (label) act("relabel", label);
      else this.field.focus();
    });
    this.element = element("section", { className: "panel suspect", "aria-labelledby": "suspect-title", hidden: true },
      this.picture,
      element("div", { className: "about" }, this.title, this.votes, this.facts),
      element("div", { className: "row decide" }, this.right, this.suggested, this.remove),
      other,
      element("div", { className: "near" }, element("h4", {}, "Nearest known images ",
        element("small", {}, "similarity, share of the vote")), this.list),
      element("div", { className: "row end" }, this.later));
    // Where the keyboard is in this panel, and nothing is being typed.
    this.element.addEventListener("keydown", (event) => {
      const isTyping = event.target.matches("input");
      if (isTyping || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      const what = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
      if (!what && event.key.toLowerCase() !== "u") return;
      event.preventDefault();
      if (what) this[what].click();
      else act("undo");
    });
  }

  /** Show one; `hasFocus` has the keyboard go on there. */
  show(suspect, hasFocus) {
    this.suspect = suspect;
    const { entry, suggested, given_vote: given, suggested_vote: said, neighbors } = suspect;
    this.element.hidden = false;
    this.title.replaceChildren("Labelled ", element("strong", {}, entry.label), element("span", { className: "soft" },
      ` its neighbours say ${suggested}`));
    this.picture.replaceChildren(picture(entry) ?? "");
    this.picture.hidden = !entry.thumbnail;
    this.votes.replaceChildren(...[[entry.label, given, "mixture"], [suggested, said, "cache"]].map(([name, share, kind]) => (
      element("div", {}, element("dt", {}, name), element("dd", {}, bar(share, kind), element("span", {}, percent(share)))))));
    const from = entry.taught ? "Taught here." : `From ${entry.source}.`;
    this.facts.textContent = `${from}${entry.thumbnail ? "" : " This bundle keeps no pictures: go by where it came from."}`;
    // Where some have no pictures, all are lines of words and bars, as neighbours of an answer are.
    const isLines = neighbors.some(({ thumbnail }) => !thumbnail);
    const isPictured = neighbors.some(({ thumbnail }) => thumbnail);
    this.list.classList.toggle("lines", isLines);
    this.list.classList.toggle("pictured", isPictured);
    this.list.replaceChildren(...neighbors.map((near) => this.#tile(near, entry.label, isLines, isPictured)));
    this.right.replaceChildren(key("R"), "Right as it is");
    this.suggested.replaceChildren(key("L"), `It is ${suggested}`);
    this.remove.replaceChildren(key("X"), "Remove it");
    this.isAsked = false;
    this.field.value = "";
    if (hasFocus) this.title.focus({ preventScroll: true });
  }

  // Taught images are gone when removed: the second press does it.
  #remove() {
    if (this.suspect.entry.taught && !this.isAsked) {
      this.isAsked = true;
      this.remove.replaceChildren(key("X"), "Remove for good?");
      return;
    }
    this.act("remove");
  }

  #button(keyName, shown, className, act) {
    const button = element("button", { type: "button", className }, key(shown));
    button.setAttribute("aria-keyshortcuts", keyName);
    button.addEventListener("click", act);
    return button;
  }

  #tile(near, label, isLines, isPictured) {
    const title = `${near.label}, similarity ${near.similarity.toFixed(3)}`;
    const name = element("span", { className: "name" }, near.label);
    const alike = element("span", { className: "alike" }, near.similarity.toFixed(2));
    const share = [bar(near.weight, "cache"), element("span", { className: "part" }, brief(near.weight))];
    const parts = isLines ? [isPictured ? picture(near) ?? element("span") : "", name, ...share, alike]
      : [picture(near), name, alike, ...share];
    const button = element("button", { type: "button", title }, ...parts);
    button.setAttribute("aria-label", `${title}, ${percent(near.weight)} of the vote: details`);
    button.addEventListener("click", () => openEntry(near, { share: percent(near.weight) }));
    return element("li", { className: `${near.taught ? "taught" : ""} ${near.label === label ? "" : "other"}`.trim() }, button);
  }
}
