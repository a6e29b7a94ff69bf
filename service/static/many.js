import { fillCell, itemOf, makeCell } from "./cell.js";
import { choose, chooseAll, countChoices, onChoice } from "./choosing.js";
import { openDetail } from "./detail.js";
import { byId } from "./element.js";
import { count, some } from "./format.js";
import { Grid } from "./grid.js";
import { items, select, selected } from "./items.js";
import { label, undo } from "./labelling.js";
import { onModel } from "./model.js";
import { chooseSlots, labelOf, onSlot, useSlots } from "./slots.js";
import { openTeach } from "./teach.js";
import { announce } from "./words.js";

/** Many images, as a grid of small cards: chosen, sorted, selected and labelled by mouse or keyboard. */

/** While answers come in, what is shown is chosen anew so often. */
const CHOSEN_EVERY_MS = 500;

const scroller = byId("grid");
let shown = [];
/** Where a range that is selected begins. */
let anchor = 0;
let due = null;
let doing = {};

const grid = new Grid(scroller, {
  make: makeCell,
  fill: (cell, item, place) => fillCell(cell, item, place === grid.active),
});

/** Choose anew what is shown, and draw it. */
function chooseAnew() {
  clearTimeout(due);
  due = null;
  const all = items();
  countChoices(all);
  chooseSlots(all);
  shown = choose(all);
  grid.show(shown);
  const number = shown.length === all.length ? "" : `${count(shown.length)} of `;
  byId("shown").textContent = `${number}${some(all.length, "image")}`;
  const answered = all.filter(({ said }) => said);
  byId("uncalibrated").hidden = !answered.length || answered.some(({ said }) => said.standing);
  byId("nothing-shown").hidden = shown.length > 0;
}

/** Show all items; `buttons` has what the buttons of one do. */
export function showMany(buttons) {
  doing = buttons;
  chooseAnew();
}

/** Draw what changed. */
export function updateMany() {
  grid.refresh();
  due ??= setTimeout(chooseAnew, CHOSEN_EVERY_MS);
}

export const shownItems = () => shown;

// There may be other labels.
onModel(() => { if (shown.length) updateMany(); });

onChoice(() => {
  scroller.scrollTop = 0;
  chooseAnew();
  announce(`${some(shown.length, "image")} shown.`, false);
});
byId("show-all").addEventListener("click", () => { chooseAll(); chooseAnew(); scroller.focus(); });

function extend(to) {
  const [from, until] = [Math.min(anchor, to), Math.max(anchor, to)];
  select(shown.slice(from, until + 1), true);
}

/** What the next label is for: those that are selected, or the one where the keyboard is. */
const meant = () => {
  const some_ = selected();
  return some_.length ? some_ : [shown[grid.active]].filter((item) => item?.isTeachable);
};

function give(some_, text) {
  if (!text || !some_.length) return false;
  useSlots();
  label(some_, text).then((came) => { if (came?.problem) announce(came.problem); });
  return true;
}

/** Label what is meant; the keyboard goes on where that is one image. */
function giveMeant(text) {
  const some_ = meant();
  if (!give(some_, text)) return;
  if (some_.length === 1 && some_[0] === shown[grid.active]) go(grid.active + 1);
}
onSlot((text) => { giveMeant(text); scroller.focus(); });

function go(place, isRange = false) {
  grid.move(place);
  if (isRange) extend(grid.active);
  else anchor = grid.active;
}

const DIGIT = /^[1-9]$/;

const MOVES = {
  ArrowLeft: () => -1,
  ArrowRight: () => 1,
  ArrowUp: () => -grid.columns,
  ArrowDown: () => grid.columns,
  PageUp: () => -grid.columns * grid.page,
  PageDown: () => grid.columns * grid.page,
  Home: () => -shown.length,
  End: () => shown.length,
};

const KEYS = {
  Enter: () => openDetail(
    shown, grid.active, doing,
    (item) => { if (shown.includes(item)) go(shown.indexOf(item)); },
    (key, item) => DIGIT.test(key) && give([item].filter(({ isTeachable }) => isTeachable), labelOf(key)),
  ),
  " ": () => {
    const item = shown[grid.active];
    anchor = grid.active;
    if (item) select([item], !item.isSelected);
  },
  Escape: () => select(selected(), false),
  u: () => takeBack(),
  l: () => { if (meant().length) openTeach(meant()); },
};

function takeBack() {
  const { sentence, items: undone } = undo();
  announce(sentence || "There is nothing to undo.");
  const place = shown.indexOf(undone[0]);
  if (place >= 0) go(place);
}
byId("undo").addEventListener("click", takeBack);

scroller.addEventListener("keydown", (event) => {
  const { key, shiftKey, altKey } = event;
  const isCommand = event.ctrlKey || event.metaKey;
  if (altKey) return;
  if (isCommand && key.toLowerCase() === "a") select(shown, true);
  else if (key in MOVES) go(grid.active + MOVES[key](), shiftKey);
  else if (isCommand) return;
  else if (DIGIT.test(key)) giveMeant(labelOf(key));
  else if (KEYS[key] ?? KEYS[key.toLowerCase()]) (KEYS[key] ?? KEYS[key.toLowerCase()])();
  else return;
  event.preventDefault();
});

scroller.addEventListener("click", ({ target, shiftKey }) => {
  const cell = target.closest(".cell");
  const item = cell && itemOf(cell);
  const place = shown.indexOf(item);
  if (!item || place < 0) return;
  if (target.closest(".open")) {
    go(place);
    KEYS.Enter();
  } else if (shiftKey) {
    grid.move(place);
    extend(place);
  } else {
    go(place);
    select([item], !item.isSelected);
  }
});
scroller.addEventListener("dblclick", ({ target }) => { if (target.closest(".cell") && !target.closest(".open")) KEYS.Enter(); });
