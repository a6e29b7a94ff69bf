/** Pictures of what is on the page: large ones as they are, small ones made by a worker, of which some are kept. */

/** Small pictures that are kept, with the last of those that were wanted. */
const KEPT = 600;
/** Files that the worker makes small at once: each is held in memory as a whole meanwhile. */
const MADE_AT_ONCE = 3;

/** Show an item's picture as it is; what is called to give its memory back. */
export function showPicture(image, { file }) {
  const url = URL.createObjectURL(file);
  image.addEventListener("error", () => image.classList.add("broken"));
  image.src = url;
  return () => URL.revokeObjectURL(url);
}

/** Addresses of small pictures by item, those that were wanted last at the end; "" where a browser can show none. */
const kept = new Map();
/** What is to be made, the last one first: whoever scrolls wants to see where they are now. */
let wanted = [];
let worker = null;
const making = new Map();
let numbers = 0;

function keep(item, url) {
  kept.set(item, url);
  for (const [old, address] of kept) {
    if (kept.size <= KEPT) break;
    kept.delete(old);
    if (address) URL.revokeObjectURL(address);
  }
}

function done({ data: { number, blob } }) {
  const { item, showing } = making.get(number);
  making.delete(number);
  if (!item.isGone) {
    const url = blob ? URL.createObjectURL(blob) : "";
    keep(item, url);
    for (const show of showing) show(url);
  }
  make();
}

function make() {
  while (making.size < MADE_AT_ONCE && wanted.length) {
    const next = wanted.pop();
    if (!next.isWanted() || next.item.isGone) continue;
    if (kept.has(next.item)) {
      next.show(kept.get(next.item));
      continue;
    }
    const same = [...making.values()].find(({ item }) => item === next.item);
    if (same) {
      same.showing.push(next.show);
      continue;
    }
    numbers += 1;
    making.set(numbers, { item: next.item, showing: [next.show] });
    if (!worker) {
      worker = new Worker(new URL("pictures-worker.js", import.meta.url), { type: "module" });
      worker.addEventListener("message", done);
    }
    worker.postMessage({ number: numbers, file: next.item.file });
  }
}

/** Have an item's small picture shown, now or when it is made, if it is wanted then. */
export function smallPicture(item, show, isWanted) {
  if (kept.has(item)) {
    const url = kept.get(item);
    kept.delete(item);
    kept.set(item, url);
    show(url);
    return;
  }
  wanted.push({ item, show: (url) => { if (isWanted()) show(url); }, isWanted });
  if (wanted.length > 2 * KEPT) wanted = wanted.filter((one) => one.isWanted());
  make();
}

/** Give back what is kept of items that were taken off the page. */
export function freePictures() {
  wanted = wanted.filter(({ item }) => !item.isGone);
  for (const [item, url] of kept) {
    if (!item.isGone) continue;
    kept.delete(item);
    if (url) URL.revokeObjectURL(url);
  }
}
