import { Problem } from "./api.js";
import { openDialog } from "./dialogs.js";
import { byId, element } from "./element.js";
import { count, some } from "./format.js";
import { items, onItems } from "./items.js";
import { label, mended, undo } from "./labelling.js";
import { model, onModel } from "./model.js";
import { showPicture } from "./pictures.js";
import { chooseSlots, labelOf, slotLabels, useSlots } from "./slots.js";
import { suggest } from "./suggestions.js";

/**
 * What to label next: one image after the other in the order in which labels teach most, each with its reason, a key a
 * label. After ten of them, the order is asked for anew.
 */

const dialog = byId("next-dialog");
const field = byId("next-label");
const wrong = byId("next-wrong");
let queue = [];
const skipped = new Set();
/** What was done here, the last at the end: `{one, isSkip}`. */
let done = [];
/** Labels on their way: the order is asked for when all are known. */
let given = [];
let isAsking = false;
/** A label waits for the reader's key. */
let isGiving = false;
let free = () => {};
let shown = null;

const isOpen = (item) => item.isTeachable && !item.isGone && item.label === null && !skipped.has(item);

/** Show the first of the queue, or say why there is none. */
function show() {
  queue = queue.filter(({ item }) => isOpen(item));
  const [one] = queue;
  byId("next-work").hidden = !one;
  byId("next-undo").disabled = !done.length;
  byId("next-skip").disabled = !one;
  const labels = done.filter(({ isSkip }) => !isSkip).length;
  const parts = [some(labels, "label")];
  if (skipped.size) parts.push(`${count(skipped.size)} skipped`);
  byId("next-count").textContent = done.length ? parts.join(", ") : "";
  if (one?.item === shown?.item) {
    drawSlots();
    return;
  }
  free();
  free = () => {};
  shown = one ?? null;
  byId("next-picture").removeAttribute("src");
  if (!one) return;
  byId("next-picture").alt = one.item.name;
  free = showPicture(byId("next-picture"), one.item);
  byId("next-picture").classList.remove("broken");
  byId("next-name").textContent = one.item.name;
  byId("next-why").textContent = sentence(one.why);
  field.value = "";
  wrong.textContent = "";
  drawSlots();
}

/** Keys are heard where the focus is: it leaves what was hidden or disabled. */
function keepFocus() {
  const active = document.activeElement;
  if (dialog.contains(active) && !active.disabled && active.checkVisibility()) return;
  if (byId("next-work").hidden) dialog.querySelector("[data-close]").focus();
  else byId("next-work").focus();
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

function drawSlots() {
  chooseSlots(items());
  const maybe = new Set(queue[0]?.labels ?? []);
  byId("next-slots").replaceChildren(...slotLabels().map((text, i) => {
    const chip = element("button", { type: "button", className: "chip" }, element("kbd", {}, String(i + 1)), ` ${text}`);
    chip.classList.toggle("maybe", maybe.has(text));
    chip.addEventListener("click", () => { give(text); byId("next-work").focus(); });
    return element("li", {}, chip);
  }));
}

/** Ask for the next ones, once the server knows the labels before. */
async function ask() {
  if (isAsking || !dialog.open) return;
  isAsking = true;
  try {
    tell("Asking which would teach most …");
    const came = await Promise.all(given);
    given = [];
    const left = items().filter(isOpen);
    const found = await suggest(left, (ready, all) => {
      if (ready < all) tell(`${count(ready)} of ${some(all, "image")} embedded …`);
    });
    queue = found.suggested;
    const refused = came.find((one) => one?.problem);
    tell(refused?.problem ?? (queue.length ? "" : whyNone(left.length)));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    tell(problem.message, true);
  } finally {
    isAsking = false;
    show();
    if (queue.length && document.activeElement !== field) byId("next-work").focus();
    keepFocus();
  }
}

function whyNone(left) {
  if (left) return `The other ${some(left, "image is", "images are")} nearly the same as known ones: they would teach little.`;
  return skipped.size ? "All of the others were skipped." : "All images on the page are labelled.";
}

function tell(text, mayAgain = false) {
  byId("next-status").textContent = text;
  byId("next-again").hidden = !mayAgain;
}

function next() {
  show();
  keepFocus();
  if (!queue.length) ask();
}

/** Label the image at hand. */
async function give(text) {
  const [one] = queue;
  if (!one || isAsking || isGiving) return;
  useSlots();
  isGiving = true;
  tell("");
  const giving = label([one.item], text);
  // Whether anything may be taught is asked once; after that an item has its label at once.
  await Promise.race([giving, new Promise((resolve) => { setTimeout(resolve); })]);
  if (one.item.label === null) await giving;
  isGiving = false;
  if (one.item.label !== null) {
    given.push(giving);
    done.push({ one, isSkip: false });
  }
  giving.then((came) => { if (came?.problem) tell(came.problem); });
  next();
}

function skip() {
  const [one] = queue;
  if (!one || isAsking) return;
  skipped.add(one.item);
  done.push({ one, isSkip: true });
  tell("");
  next();
}

function takeBack() {
  const last = done.pop();
  if (!last || isAsking) return;
  if (last.isSkip) skipped.delete(last.one.item);
  else undo();
  queue.unshift(last.one);
  shown = null;
  tell(`Undone: ${last.one.item.name}.`);
  show();
  keepFocus();
}

byId("next").addEventListener("click", () => {
  done = [];
  // What was skipped comes again when nothing else is left.
  if (!items().some(isOpen)) skipped.clear();
  openDialog(dialog);
  show();
  byId("next-work").focus();
  ask();
});
dialog.addEventListener("close", () => {
  free();
  [free, shown, queue] = [() => {}, null, []];
});
byId("next-skip").addEventListener("click", skip);
byId("next-undo").addEventListener("click", takeBack);
byId("next-again").addEventListener("click", ask);
byId("next-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = mended(field.value);
  wrong.textContent = text ? "" : "Say what it shows.";
  if (!text) return;
  give(text);
  byId("next-work").focus();
});

const KEYS = { s: skip, u: takeBack, l: () => field.focus() };
dialog.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target === field) return;
  if (/^[1-9]$/.test(key) && labelOf(Number(key))) give(labelOf(Number(key)));
  else if (KEYS[key.toLowerCase()]) KEYS[key.toLowerCase()]();
  else return;
  event.preventDefault();
});

// The page says that it waits for the server, but behind this window.
let waitsFor = "";
new MutationObserver(() => {
  const why = byId("away").hidden ? "" : byId("away-why").textContent;
  if (dialog.open && why !== waitsFor) tell(why);
  waitsFor = why;
}).observe(byId("away"), { attributes: true, childList: true, subtree: true });

onModel(() => { if (dialog.open) drawSlots(); });
onItems((changed) => { if (dialog.open && (changed === null || changed.some(({ isGone }) => isGone))) show(); });
