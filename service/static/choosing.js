import { byId, element } from "./element.js";
import { count } from "./format.js";
import { onModel } from "./model.js";

/** Which of many images are shown, and in which order. */

const show = byId("show");
const classes = byId("show-class");
const order = byId("order");

const SHOWS = {
  all: ["all", () => true],
  known: ["known", ({ said }) => said?.standing === "known"],
  doubtful: ["doubtful", ({ said }) => said?.standing === "doubtful"],
  unknown: ["unknown", ({ said }) => said?.standing === "unknown"],
  differ: ["network and cache differ", ({ said }) => Boolean(said?.differs)],
  labelled: ["labelled here", ({ label }) => label !== null],
  failed: ["without an answer", ({ state }) => state === "failed"],
};

const LAST = Number.MAX_VALUE;
/** What there is no number of comes last. */
const by = (number) => (a, b) => (number(a) ?? LAST) - (number(b) ?? LAST);
const ORDERS = {
  dropped: null,
  unsure: by(({ said }) => said?.probability),
  novel: by(({ said }) => (said?.novelty == null ? null : -said.novelty)),
  label: (a, b) => (a.said?.label ?? "\uffff").localeCompare(b.said?.label ?? "\uffff"),
};

let told = "";

/** Name what there is to choose from, with how many images each is. */
export function countChoices(items) {
  const numbers = Object.fromEntries(Object.entries(SHOWS).map(([name, [, is]]) => [name, items.filter(is).length]));
  const byClass = new Map();
  for (const { said } of items) if (said) byClass.set(said.label, (byClass.get(said.label) ?? 0) + 1);
  const now = JSON.stringify([numbers, [...byClass]]);
  // A list that is made anew while it is open closes.
  if (now === told) return;
  told = now;
  for (const option of show.options) {
    option.textContent = `${SHOWS[option.value][0]} (${count(numbers[option.value])})`;
    option.disabled = !numbers[option.value] && option.value !== "all" && option.value !== show.value;
  }
  const chosen = classes.value;
  const labels = [...byClass.keys()].sort((a, b) => a.localeCompare(b));
  classes.replaceChildren(element("option", { value: "" }, "all classes"), ...labels.map((label) => element(
    "option", { value: label }, `${label} (${count(byClass.get(label))})`)));
  classes.value = byClass.has(chosen) ? chosen : "";
}

/** Those of the items that are to be shown, in the order that is asked for. */
export function choose(items) {
  const [, is] = SHOWS[show.value || "all"];
  const label = classes.value;
  const chosen = items.filter((item) => is(item) && (!label || item.said?.label === label));
  return ORDERS[order.value] ? chosen.sort(ORDERS[order.value]) : chosen;
}

/** Show all of them again. */
export function chooseAll() {
  show.value = "all";
  classes.value = "";
}

/** Without a head, no network has an opinion that could differ. */
onModel(({ hasHead }) => {
  const names = Object.keys(SHOWS).filter((name) => hasHead || name !== "differ");
  if (show.options.length === names.length) return;
  const chosen = show.value;
  show.replaceChildren(...names.map((value) => element("option", { value }, SHOWS[value][0])));
  show.value = names.includes(chosen) ? chosen : "all";
  told = "";
});

/** Be told that others are to be shown, or in another order. */
export function onChoice(listener) {
  for (const select of [show, classes, order]) select.addEventListener("change", listener);
}
