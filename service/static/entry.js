import { Problem, callWithKey, tellChanged } from "./api.js";
import { openDialog } from "./dialogs.js";
import { byId, element } from "./element.js";

/** A frame with an entry's thumbnail; null where the bundle keeps no pictures. */
export function picture({ id, thumbnail }, ...marks) {
  if (!thumbnail) return null;
  const { pathname: src } = new URL(`v1/entries/${id}/thumbnail`, document.baseURI);
  const image = element("img", { src, alt: "", loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(element("span", { className: "soft" }, "no picture")));
  return element("span", { className: "frame" }, image, ...marks);
}

const dialog = byId("entry-dialog");
const field = byId("entry-label");
const wrong = byId("entry-wrong");
const remove = byId("entry-remove");
const REMOVE = "Remove it";
let open = null;

/** Show one known image, which can be relabelled or removed there; its id is the generation's that it names. */
export function openEntry(entry, { share = "" } = {}) {
  open = entry;
  byId("entry-picture").replaceChildren(picture(entry) ?? "");
  byId("entry-title").textContent = entry.label;
  const facts = [
    ["Similarity", entry.similarity?.toFixed(3)],
    ["Share of the vote", share],
    ["Came from", entry.taught ? "teaching" : entry.source],
    ["Was", entry.was],
    ["Mirrored", entry.mirrored ? "yes: its original goes with it" : ""],
    ["Number", String(entry.id)],
  ];
  byId("entry-facts").replaceChildren(...facts.filter(([, value]) => value).map(([name, value]) => element(
    "div", {}, element("dt", {}, name), element("dd", {}, value))));
  field.value = "";
  wrong.textContent = "";
  remove.textContent = REMOVE;
  openDialog(dialog);
}

async function change(method, body) {
  const { id, generation } = open;
  wrong.textContent = "";
  for (const button of dialog.querySelectorAll("button")) button.disabled = true;
  try {
    await callWithKey(method, `v1/entries/${id}?generation=${encodeURIComponent(generation)}`, { body });
    dialog.close();
    tellChanged();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    wrong.textContent = problem.message;
    if (problem.known) field.value = problem.known;
    // What is shown is another generation's.
    if (problem.kind === "generation-changed") tellChanged();
  }
  for (const button of dialog.querySelectorAll("button")) button.disabled = false;
}

dialog.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const label = field.value.trim();
  if (label) change("PATCH", { label });
  else wrong.textContent = "Say what it shows.";
});

// Taught images are gone when removed: the second press does it.
remove.addEventListener("click", () => {
  if (remove.textContent === REMOVE) remove.textContent = "Remove for good?";
  else change("DELETE");
});
