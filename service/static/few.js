import { Card } from "./cards.js";
import { byId } from "./element.js";
import { onMix } from "./mixer.js";

/** A few images, as large cards that follow the sliders. */

const list = byId("cards");
let cards = [];

/** Draw these items, in their order; `doing` has what a card's buttons do. */
export function showFew(items, doing) {
  const before = new Map(cards.map((card) => [card.item, card]));
  cards = items.map((item) => before.get(item) ?? new Card(item, doing));
  for (const [item, card] of before) {
    if (items.includes(item)) continue;
    card.free();
    sight.unobserve(card.element);
    inSight.delete(card.element);
  }
  for (const card of cards) if (!before.has(card.item)) sight.observe(card.element);
  // Those that stay are not moved: what has the focus keeps it.
  list.querySelectorAll(":scope > li").forEach((drawn) => { if (!cards.some(({ element }) => element === drawn)) drawn.remove(); });
  cards.forEach((card, i) => { if (list.children[i] !== card.element) list.insertBefore(card.element, list.children[i] ?? null); });
  stale = stale.filter((card) => cards.includes(card));
  tell();
}

export function updateFew(items) {
  for (const card of cards) if (items.includes(card.item)) card.update();
  tell();
}

/** Have the keyboard go on at an item's card; whether there is one. */
export function focusCard(item) {
  const card = cards.find((one) => one.item === item);
  card?.label.focus();
  return Boolean(card);
}

/** How many differ from the model's own mix. */
function tell() {
  const flipped = cards.filter(({ item, hasFlipped }) => item.answer && hasFlipped).length;
  const differ = `${flipped} of ${cards.length} ${cards.length === 1 ? "answer" : "answers"} ${flipped === 1 ? "differs" : "differ"}`;
  byId("flips").textContent = flipped ? `${differ} from the model’s own mix` : "";
}

// However quickly a slider moves, what is in sight is mixed once for each time that the screen is drawn; the rest when
// it rests.
const RESTS_MS = 150;
const inSight = new Set();
const sight = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    if (isIntersecting) inSight.add(target);
    else inSight.delete(target);
  }
  mix(stale.filter(({ element }) => inSight.has(element)));
});
let stale = [];
let isDue = false;
let resting = null;

function mix(some) {
  for (const card of some) card.refresh();
  stale = stale.filter((card) => !some.includes(card));
  tell();
}

onMix(() => {
  stale = [...cards];
  clearTimeout(resting);
  resting = setTimeout(() => mix(stale), RESTS_MS);
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    mix(stale.filter(({ element }) => inSight.has(element)));
  });
});
