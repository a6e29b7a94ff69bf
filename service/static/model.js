import { call } from "./api.js";

/** What `GET /v1/model` said last; null before. */
export let model = null;

const listeners = [];

/** Be told of the model, now and whenever it changes. */
export function onModel(listener) {
  listeners.push(listener);
  if (model) listener(model);
}

/** Where the server cannot be taught, say so in the places where one would. */
function showTeachable({ teachable, why_not_teachable: why }) {
  for (const part of document.querySelectorAll("[data-teachable]")) part.hidden = !teachable;
  for (const part of document.querySelectorAll("[data-unteachable]")) {
    part.hidden = teachable;
    part.textContent = teachable ? "" : `This server cannot be taught. ${why}`;
  }
}

/** Ask for it anew. */
export async function loadModel() {
  const said = await call("GET", "v1/model");
  // Servers from before teaching do not tell the two apart.
  model = { dataset_classes: said.classes.length, counts: null, taught: null, teachable: true, ...said };
  model.hasHead = model.head !== "none";
  // Nothing can be said of any image.
  model.isEmpty = !model.hasHead && model.entries === 0;
  for (const part of document.querySelectorAll("[data-empty]")) part.hidden = !model.isEmpty;
  for (const part of document.querySelectorAll("[data-known]")) part.hidden = model.isEmpty;
  for (const part of document.querySelectorAll("[data-head]")) part.hidden = !model.hasHead;
  for (const part of document.querySelectorAll("[data-headless]")) part.hidden = model.hasHead;
  showTeachable(model);
  for (const listener of listeners) listener(model);
  return model;
}
