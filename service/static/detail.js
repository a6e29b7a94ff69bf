import { ask } from "./asking.js";
import { Card } from "./cards.js";
import { openDialog } from "./dialogs.js";
import { byId } from "./element.js";
import { count } from "./format.js";
import { onItems } from "./items.js";

/** One of many images with all that is said of it, in a window; the arrows lead to its neighbours in the grid. */

const dialog = byId("detail-dialog");
let shown = [];
let place = 0;
let card = null;
const asking = new Set();
let doing = {};
let moved = () => {};
let pressed = () => false;

function free() {
  card?.free();
  card = null;
  byId("detail").replaceChildren();
}

function show(to) {
  const focused = dialog.contains(document.activeElement) ? document.activeElement : null;
  free();
  place = to;
  const item = shown[place];
  card = new Card(item, doing);
  byId("detail").replaceChildren(card.element);
  byId("detail-place").textContent = `${count(place + 1)} of ${count(shown.length)}`;
  byId("detail-back").disabled = place === 0;
  byId("detail-next").disabled = place === shown.length - 1;
  moved(item);
  if (focused && (!focused.isConnected || focused.disabled)) card.label.focus();
  askInFull(item);
}

/** Of many images the short answers were asked for. */
function askInFull(item) {
  if (item.state !== "answered" || item.answer || asking.has(item)) return;
  asking.add(item);
  ask([item]).finally(() => asking.delete(item));
}

/**
 * Open the window at one of the images that are shown. `told` hears of each that the reader comes to; `labelled` of each
 * key, and says whether it gave the image a label.
 */
export function openDetail(items, at, buttons, told, labelled) {
  if (!items[at]) return;
  [shown, doing, moved, pressed] = [items, buttons, told, labelled];
  show(at);
  openDialog(dialog);
  card.label.focus();
}

/** The image that is open; null where none is. */
export const openItem = () => card?.item ?? null;

const step = (by) => { if (shown[place + by]) show(place + by); };
byId("detail-back").addEventListener("click", () => step(-1));
byId("detail-next").addEventListener("click", () => step(1));
dialog.addEventListener("keydown", ({ key, ctrlKey, metaKey, altKey }) => {
  if (ctrlKey || metaKey || altKey) return;
  if (key === "ArrowLeft") step(-1);
  else if (key === "ArrowRight" || pressed(key, card.item)) step(1);
});
dialog.addEventListener("close", free);

onItems((changed) => {
  if (!card) return;
  if (card.item.isGone) dialog.close();
  else if (changed?.includes(card.item)) {
    card.update();
    askInFull(card.item);
  }
});
