import { bar, element } from "./element.js";
import { openEntry, picture } from "./entry.js";
import { brief, percent } from "./format.js";

const FIRST = 6;

/** The nearest known images of one answer, each with what it adds to the vote. */
export class NeighborTiles {
  constructor(answer) {
    this.answer = answer;
    const without = answer.neighbors.filter(({ thumbnail }) => !thumbnail).length;
    /** Where some have no pictures, all are lines of words and bars: what is not there is not drawn. */
    this.isLines = without > 0;
    this.isPictured = without < answer.neighbors.length;
    this.sentence = element("p", { className: "soft" });
    this.tiles = answer.neighbors.map((neighbor, i) => this.#tile(neighbor, i));
    this.list = element("ul", { className: "tiles few" }, this.tiles.map(({ item }) => item));
    this.list.classList.toggle("lines", this.isLines);
    this.list.classList.toggle("pictured", this.isPictured);
    this.list.setAttribute("aria-label", "Nearest known images");
    this.more = element("button", { type: "button", className: "link", "aria-expanded": "false" });
    this.more.addEventListener("click", () => this.#open(this.list.classList.contains("few")));
    this.element = element("div", { className: "neighbors" },
      element("h4", {}, "Nearest known images ", element("small", {}, "similarity, share of the vote")), this.list,
      this.isLines ? element("p", { className: "soft" }, this.isPictured
        ? "Some were kept without their pictures." : "Shown by label: this model was made without keeping pictures.") : "",
      element("div", { className: "row between" }, this.sentence, answer.neighbors.length > FIRST ? this.more : ""));
    this.#open(false);
  }

  /** Their shares and which of them decide, under another mix. */
  refresh({ shares, decisive, classes }, winner) {
    this.shares = shares;
    const deciding = new Set(decisive?.places);
    this.tiles.forEach(({ item, meter, share, mark, button, neighbor }, i) => {
      const part = percent(shares[i] ?? 0);
      meter.style.setProperty("--share", shares[i] ?? 0);
      share.textContent = brief(shares[i] ?? 0);
      item.classList.toggle("decisive", deciding.has(i));
      item.classList.toggle("other", neighbor.label !== classes[winner]);
      mark.hidden = !deciding.has(i);
      button.setAttribute("aria-label", `${button.title}, ${part} of the vote`
        + `${deciding.has(i) ? ", decides the answer" : ""}${neighbor.taught ? ", taught" : ""}: details`);
    });
    const them = deciding.size === 1 ? "the one marked ★" : `the ${deciding.size} marked ★`;
    this.sentence.textContent = decisive ? `Without ${them} it would be ${classes[decisive.instead]}.` : "";
  }

  #open(isOpen) {
    this.list.classList.toggle("few", !isOpen);
    this.more.setAttribute("aria-expanded", String(isOpen));
    this.more.textContent = isOpen ? "Show fewer" : `Show all ${this.answer.neighbors.length}`;
  }

  #tile(neighbor, i) {
    const meter = bar(neighbor.weight, "cache");
    const share = element("span", { className: "part" });
    const mark = element("span", { className: "star", hidden: true, ariaHidden: "true" }, "★");
    const title = `${neighbor.label}, similarity ${neighbor.similarity.toFixed(3)}`;
    const name = element("span", { className: "name" }, this.isLines ? mark : "", neighbor.label);
    const alike = element("span", { className: "alike" }, neighbor.similarity.toFixed(2));
    const parts = this.isLines
      ? [this.isPictured ? picture(neighbor) ?? element("span") : "", name, meter, share, alike]
      : [picture(neighbor, mark), name, alike, meter, share];
    const button = element("button", { type: "button", title }, ...parts);
    button.addEventListener("click", () => openEntry(neighbor, { share: percent(this.shares[i] ?? 0) }));
    const item = element("li", { className: neighbor.taught ? "taught" : "" }, button);
    return { item, meter, share, mark, button, neighbor };
  }
}
