import { Problem, call, tellChanged } from "./api.js";
import { element } from "./element.js";
import { openEntry, picture } from "./entry.js";
import { count, some } from "./format.js";

const SHOWN = 36;

/** The points that a lasso has caught: how many of which class, and the first of them as pictures. */
export class Selection {
  /** `entryOf(i)` asks for a point's entry, `onClear` is told when nothing is selected, `say` what is going on. */
  constructor({ entryOf, onClear, say }) {
    this.entryOf = entryOf;
    this.say = say;
    /** What was relabelled last: `[id, label before]`; of which generation. */
    this.before = null;
    this.points = new Set();
    this.ids = new Set();
    this.title = element("h3", { id: "caught-title", tabIndex: -1 });
    this.classes = element("p", { className: "soft" });
    this.list = element("ul", { className: "tiles wide" });
    const clear = element("button", { type: "button", className: "quiet" }, "Select none");
    clear.addEventListener("click", () => {
      this.clear();
      onClear();
    });
    this.field = element("input", { id: "caught-label", maxLength: 100, autocomplete: "off", spellcheck: false });
    this.field.setAttribute("list", "labels");
    this.send = element("button", { className: "quiet" });
    this.undo = element("button", { type: "button", className: "quiet", hidden: true }, "Undo");
    this.undo.addEventListener("click", () => this.#takeBack());
    const relabel = element("form", { className: "row other", "data-teachable": "" },
      element("label", { htmlFor: "caught-label" }, "They show"), this.field, this.send, this.undo);
    relabel.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.field.value.trim()) this.#relabel(this.field.value.trim());
      else this.field.focus();
    });
    this.element = element("section", { className: "panel caught", "aria-labelledby": "caught-title", hidden: true },
      element("div", { className: "row between" }, this.title, clear), this.classes, relabel, this.list);
  }

  get size() { return this.points.size; }

  has(i) { return this.points.has(i); }

  clear() {
    this.points.clear();
    this.ids.clear();
    this.element.hidden = true;
  }

  /** Select these points of a map. */
  set(data, caught, classes) {
    this.points = new Set(caught);
    this.ids = new Set(caught.map((i) => data.ids[i]));
    this.names = classes;
    this.before = null;
    this.field.value = "";
    this.#show(data);
  }

  /** Give all of them a label, one after the other; each is kept as it is answered. */
  async #relabel(label) {
    const { data } = this;
    const rest = [...this.points].filter((i) => this.names[data.classes[i]] !== label);
    await this.#change(rest.map((i) => [data.ids[i], label, this.names[data.classes[i]]]), data.generation);
  }

  async #takeBack() {
    const { generation, changed } = this.before;
    await this.#change(changed.map(([id, , was]) => [id, was, null]), generation);
  }

  async #change(changes, generation) {
    const done = [];
    this.send.disabled = this.undo.disabled = true;
    try {
      for (const [id, label, was] of changes) {
        await call("PATCH", `v1/entries/${id}?generation=${encodeURIComponent(generation)}`, { body: { label } });
        done.push([id, label, was]);
        if (done.length % 10 === 0) this.say(`Relabelled ${count(done.length)} of ${count(changes.length)} …`);
      }
      this.said = `Relabelled ${some(done.length, "image")}.`;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.said = `Relabelled ${count(done.length)} of ${count(changes.length)}: ${problem.message}`;
    }
    this.send.disabled = this.undo.disabled = false;
    // What was taken back is not offered once more.
    this.before = done.length && done[0][2] !== null ? { generation, changed: done } : null;
    if (done.length) tellChanged();
    else this.say(this.said);
  }

  /** Select the same entries on a newer map. */
  keep(data, classes) {
    this.names = classes;
    const caught = [];
    for (let i = 0; i < data.count; i += 1) if (this.ids.has(data.ids[i])) caught.push(i);
    this.points = new Set(caught);
    this.#show(data);
  }

  #show(data) {
    this.data = data;
    this.element.hidden = !this.size;
    this.undo.hidden = !this.before;
    if (!this.size) return;
    this.send.textContent = `Relabel all ${count(this.size)}`;
    const counts = new Map();
    for (const i of this.points) counts.set(data.classes[i], (counts.get(data.classes[i]) ?? 0) + 1);
    const parts = [...counts].sort((a, b) => b[1] - a[1]).map(([place, many]) => `${this.names[place]} ${count(many)}`);
    this.title.textContent = `${some(this.size, "image")} selected`;
    const more = this.size > SHOWN ? ` The first ${SHOWN} of them:` : "";
    this.classes.textContent = `${parts.slice(0, 12).join(", ")}${parts.length > 12 ? " and others" : ""}.${more}`;
    this.list.replaceChildren(...[...this.points].slice(0, SHOWN).map((i) => this.#tile(i)));
  }

  #tile(i) {
    const label = element("span", { className: "name" }, "…");
    const button = element("button", { type: "button" }, label);
    const item = element("li", {}, button);
    this.entryOf(i).then((entry) => {
      button.prepend(picture(entry) ?? "");
      label.textContent = entry.label;
      item.className = entry.taught ? "taught" : "";
      button.setAttribute("aria-label", `${entry.label}, ${entry.taught ? "taught" : entry.source}: details`);
      button.addEventListener("click", () => openEntry(entry));
    }).catch(() => item.remove()); // it was removed meanwhile
    return item;
  }
}
