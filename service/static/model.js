import { call } from "./api.js";

/** What `GET /v1/model` said last; null before. */
export let model = null;

const listeners = [];

/** Be told of the model, now and whenever it changes. */
export function onModel(listener) {
  listeners.push(listener);
  if (model) listener(model);
}

/** Ask for it anew. */
export async function loadModel() {
  const said = await call("GET", "v1/model");
  // Servers from before teaching do not tell the two apart.
  model = { dataset_classes: said.classes.length, counts: null, taught: null, ...said };
  model.hasHead = model.head !== "none";
  for (const part of document.querySelectorAll("[data-head]")) part.hidden = !model.hasHead;
  for (const part of document.querySelectorAll("[data-headless]")) part.hidden = model.hasHead;
  for (const listener of listeners) listener(model);
  return model;
}
