import { byId, element } from "./element.js";
import { model } from "./model.js";

/** The labels that the number keys give: up to nine, each of which keeps its key once a key was pressed. */

const MOST = 9;
let slots = [];
let isUsed = false;
let press = () => {};

/** The label of a key, such as "1"; null where it has none. */
/** All of them, in the order of their keys. */
export const slotLabels = () => slots;

export const labelOf = (digit) => slots[Number(digit) - 1] ?? null;

/** A key was pressed: from now on labels stay where they are. */
export const useSlots = () => { isUsed = true; };

/** Be told of a label whose key is pressed on the screen. */
export function onSlot(listener) { press = listener; }

/** Choose the labels: the model's, where it has more than fit those that the images show most often. */
export function chooseSlots(items) {
  // A label that is on its way to the server, which does not know it yet, has a key at once.
  const classes = [...new Set([...(model?.classes ?? []), ...items.flatMap(({ label }) => label ?? [])])];
  const wanted = [...classes];
  if (classes.length > MOST) {
    const numbers = new Map();
    for (const { said, label } of items) {
      // What a person said counts before what was guessed.
      if (label !== null) numbers.set(label, (numbers.get(label) ?? 0) + items.length);
      else if (said) numbers.set(said.label, (numbers.get(said.label) ?? 0) + 1);
    }
    wanted.sort((a, b) => (numbers.get(b) ?? 0) - (numbers.get(a) ?? 0));
  }
  const kept = isUsed ? slots.filter((label) => classes.includes(label)) : [];
  const now = [...kept, ...wanted.filter((label) => !kept.includes(label))].slice(0, MOST);
  if (now.join("\n") === slots.join("\n")) return;
  slots = now;
  byId("slots").replaceChildren(...slots.map((label, i) => {
    const button = element("button", { type: "button", className: "chip" }, element("kbd", {}, String(i + 1)), ` ${label}`);
    button.addEventListener("click", () => press(label));
    return element("li", {}, button);
  }));
}
