import { call } from "./api.js";
import { byId, element } from "./element.js";
import { openEntry, picture } from "./entry.js";
import { count } from "./format.js";
import { onModel } from "./model.js";

const LISTED = 24;
const label = byId("entries-label");
const taught = byId("entries-taught");
/** Where each page began that was turned over, and where the next one begins. */
let starts = [-1];
let next = null;

onModel(({ classes, counts }) => {
  const chosen = label.value;
  label.replaceChildren(element("option", { value: "" }, "all labels"), ...classes.map((name, i) => element(
    "option", { value: name }, counts ? `${name} (${count(counts[i])})` : name)));
  label.value = classes.includes(chosen) ? chosen : "";
});

/** Show the entries that are asked for. */
export async function loadEntries() {
  const asked = new URLSearchParams({ limit: LISTED, after: starts.at(-1) });
  if (label.value) asked.set("label", label.value);
  if (taught.value) asked.set("taught", taught.value);
  const { generation, total, entries, next: following } = await call("GET", `v1/entries?${asked}`);
  if (!entries.length && starts.length > 1) {
    starts.pop();
    return loadEntries();
  }
  next = following;
  byId("entries").replaceChildren(...entries.map((entry) => {
    const button = element("button", { type: "button" },
      picture(entry) ?? "", element("span", { className: "name" }, entry.label),
      element("span", { className: "alike" }, entry.was ? `was ${entry.was}` : entry.taught ? "taught" : entry.source));
    button.setAttribute("aria-label", `${entry.label}, ${entry.taught ? "taught" : entry.source}: details`);
    button.addEventListener("click", () => openEntry({ ...entry, generation }));
    return element("li", { className: entry.taught ? "taught" : "" }, button);
  }));
  const from = LISTED * (starts.length - 1);
  const range = `${count(from + 1)} to ${count(from + entries.length)} of ${count(total)}`;
  byId("entries-count").textContent = total ? range : "None.";
  byId("entries-next").disabled = next === null;
  byId("entries-back").disabled = starts.length === 1;
  return undefined;
}

function from(places) {
  starts = places;
  loadEntries().catch((problem) => { byId("entries-count").textContent = problem.message; });
}
for (const filter of [label, taught]) filter.addEventListener("change", () => from([-1]));
byId("entries-next").addEventListener("click", () => from([...starts, next]));
byId("entries-back").addEventListener("click", () => from(starts.slice(0, -1)));
