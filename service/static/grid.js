import { element } from "./element.js";

/** Rows that are drawn above and below those in sight, so that a turn of the wheel shows no empty ones. */
const SPARE = 2;

/**
 * A grid of any number of cells of which only those in sight are there: rows are used again while it is scrolled. It
 * keeps the focus itself, and names the cell where the keyboard is (aria-activedescendant).
 *
 * `make()` gives a new cell, `fill(cell, item, place)` draws an item in it (null = nothing), and is called whenever
 * what a cell shows may have changed.
 */
export class Grid {
  constructor(scroller, { make, fill }) {
    Object.assign(this, { scroller, make, fill });
    this.items = [];
    /** Where the keyboard is; -1 in an empty grid. */
    this.active = -1;
    this.columns = 1;
    this.drawn = new Map();
    this.spare = [];
    this.sheet = element("div", { className: "sheet", role: "presentation" });
    scroller.replaceChildren(this.sheet);
    scroller.addEventListener("scroll", () => this.#due(), { passive: true });
    new ResizeObserver(() => this.#measure()).observe(scroller);
  }

  /** Show these, in this order; the keyboard stays at its item where that is still there. */
  show(items) {
    const at = this.items[this.active];
    const place = items.indexOf(at);
    this.items = items;
    this.active = items.length ? Math.max(0, place >= 0 ? place : Math.min(this.active, items.length - 1)) : -1;
    this.#measure();
  }

  /** Draw anew what is in sight: all of it, once before the screen is drawn next. */
  refresh() {
    this.isStale = true;
    this.#due();
  }

  /** The cell of an item, where it is drawn. */
  cellOf(place) { return this.drawn.get(Math.floor(place / this.columns))?.children[place % this.columns] ?? null; }

  /** Have the keyboard go to a place, which comes into sight. */
  move(place) {
    if (!this.items.length) return;
    this.active = Math.max(0, Math.min(this.items.length - 1, place));
    const top = Math.floor(this.active / this.columns) * this.height;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.scroller.scrollTop = top + this.height - clientHeight;
    this.isStale = true;
    this.#draw();
  }

  /** Rows in sight. */
  get page() { return Math.max(1, Math.floor(this.scroller.clientHeight / this.height)); }

  #due() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.#draw();
    });
  }

  /** Take the sizes from the style sheet, which knows phones. */
  #measure() {
    const { clientWidth } = this.scroller;
    if (!clientWidth) return;
    const style = getComputedStyle(this.scroller);
    const root = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const rem = (name) => root * parseFloat(style.getPropertyValue(name));
    const columns = Math.max(1, Math.floor(clientWidth / rem("--cell-width")));
    if (columns !== this.columns) {
      for (const row of this.drawn.values()) row.remove();
      this.drawn.clear();
      this.spare = [];
    }
    // What was in sight stays there when the columns become others.
    const top = this.height ? Math.round(this.scroller.scrollTop / this.height) * this.columns : 0;
    const isOther = columns !== this.columns;
    this.columns = columns;
    this.height = rem("--cell-height");
    this.sheet.style.height = `${Math.ceil(this.items.length / columns) * this.height}px`;
    if (isOther) this.scroller.scrollTop = Math.floor(top / columns) * this.height;
    this.scroller.setAttribute("aria-rowcount", Math.ceil(this.items.length / columns));
    this.scroller.setAttribute("aria-colcount", columns);
    this.isStale = true;
    this.#draw();
  }

  #draw() {
    if (!this.height) return;
    const { scrollTop, clientHeight } = this.scroller;
    const rows = Math.ceil(this.items.length / this.columns);
    const from = Math.max(0, Math.floor(scrollTop / this.height) - SPARE);
    const to = Math.min(rows, Math.ceil((scrollTop + clientHeight) / this.height) + SPARE);
    for (const [place, row] of this.drawn) {
      if (place >= from && place < to) continue;
      this.drawn.delete(place);
      row.hidden = true;
      this.spare.push(row);
    }
    for (let place = from; place < to; place += 1) {
      const isNew = !this.drawn.has(place);
      if (isNew) this.drawn.set(place, this.#place(place));
      if (isNew || this.isStale) this.#fill(place);
    }
    this.isStale = false;
    const cell = this.active < 0 ? null : this.cellOf(this.active);
    if (cell) this.scroller.setAttribute("aria-activedescendant", cell.id);
    else this.scroller.removeAttribute("aria-activedescendant");
  }

  #place(place) {
    let row = this.spare.pop();
    if (!row) {
      const cells = Array.from({ length: this.columns }, () => this.make());
      row = element("div", { className: "line", role: "row" }, cells);
      row.style.gridTemplateColumns = `repeat(${this.columns}, minmax(0, 1fr))`;
      row.style.height = `${this.height}px`;
      this.sheet.append(row);
    }
    row.hidden = false;
    row.setAttribute("aria-rowindex", place + 1);
    row.style.transform = `translateY(${place * this.height}px)`;
    return row;
  }

  #fill(place) {
    [...this.drawn.get(place).children].forEach((cell, column) => {
      const at = place * this.columns + column;
      cell.setAttribute("aria-colindex", column + 1);
      this.fill(cell, this.items[at] ?? null, at);
    });
  }
}
