import { Problem, callWithKey, needAdmin, send, tellChanged } from "./api.js";
import { patiently } from "./away.js";
import { some } from "./format.js";
import { changed } from "./items.js";
import { loadModel, model } from "./model.js";
import { announce } from "./words.js";

/**
 * What images are said to show, on its way to the server: each item has the label that it is to have (`label`) and what
 * the server has (`taught`); where they differ, the server is told, in portions and in the background. So a label may
 * be given, changed and taken back while others are on their way.
 */
const SENT_AT_ONCE = 32;

/** Items that the server is to be told of. */
const dirty = new Set();
/** What was done, the last at the end: what each item was to be before. */
const done = [];
let telling = null;
/** Images that were taught or taken back since all on the page were asked about. */
let since = 0;

export const taughtSince = () => since;
export const forgetSince = () => { since = 0; };

/** Labels as they are kept: with single spaces. */
export const mended = (label) => label.trim().split(/\s+/).join(" ");

/**
 * Have items taught as `label`, or nothing with null. Resolves when the server knows, to the sentence of what it
 * refused, and the known label that it was like: `{problem, known}`, empty where all went well. null where the reader
 * has no key, or the server cannot be taught.
 */
export async function label(items, label) {
  if (!model.teachable) {
    announce(`This server cannot be taught. ${model.why_not_teachable}`);
    return null;
  }
  try {
    if (!await patiently(needAdmin)) return null;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    announce(problem.message);
    return { problem: problem.message };
  }
  done.push(new Map(items.map((item) => [item, item.label])));
  return want(new Map(items.map((item) => [item, label])));
}

/** Take back what was done last: `{sentence, items}`, empty where nothing was. */
export function undo() {
  const last = done.pop();
  if (!last) return { sentence: "", items: [] };
  want(last);
  return { sentence: `Undone: ${some(last.size, "image")}.`, items: [...last.keys()] };
}

/** Take back what these were taught. */
export const takeBack = (items) => want(new Map(items.map((item) => [item, null])));

/** Try again what was refused. */
export const again = (items) => want(new Map(items.map((item) => [item, item.refused])));

function want(labels) {
  for (const [item, wanted] of labels) {
    item.label = wanted;
    item.refusal = "";
    item.refused = null;
    if (item.isPending) dirty.add(item);
  }
  changed([...labels.keys()]);
  telling ??= tell();
  return telling.then(() => {
    const refused = [...labels.keys()].find(({ refusal }) => refusal);
    return refused ? { problem: refused.refusal, known: refused.known } : {};
  });
}

async function tell() {
  try {
    while (dirty.size) {
      const told = await tellAll();
      since += told;
      if (told) await loadModel().catch(() => null);
      if (told) tellChanged();
    }
  } finally {
    telling = null;
  }
}

/** Tell the server of all there is to tell; of how many images that was. */
async function tellAll() {
  let told = 0;
  while (dirty.size) {
    const [first] = dirty;
    const wanted = first.label;
    const part = [...dirty].filter((item) => item.label === wanted && item.isPending).slice(0, SENT_AT_ONCE);
    if (!part.length) {
      for (const item of dirty) if (!item.isPending) dirty.delete(item);
      continue;
    }
    try {
      await (wanted === null ? forget(part) : teach(part, wanted));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      for (const item of part) refuse(item, wanted, problem);
    }
    told += part.filter(({ refusal }) => !refusal).length;
    for (const item of part) if (!item.isPending) dirty.delete(item);
    changed(part);
  }
  return told;
}

function refuse(item, wanted, { message, known }) {
  // What was said of it meanwhile is tried.
  if (item.label !== wanted) return;
  Object.assign(item, { label: item.taught?.label ?? null, refusal: message, refused: wanted, known });
}

/** Whether an entry was changed; false where somebody removed it. */
const change = (method, id, body) => patiently(() => callWithKey(method, `v1/entries/${id}`, { body })).catch((problem) => {
  if (problem.status !== 404) throw problem;
  return false;
});

async function teach(part, wanted) {
  const fresh = [];
  for (const item of part) {
    const changes = await Promise.all((item.taught?.ids ?? []).map((id) => change("PATCH", id, { label: wanted })));
    const made = changes.find(Boolean);
    if (made) keep(item, wanted, made.label, item.taught.ids);
    else fresh.push(item);
  }
  if (!fresh.length) return;
  // One ticket however often it is sent: what was kept and got no answer is not kept twice. Not randomUUID, which pages
  // over plain HTTP do not have.
  const ticket = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const files = fresh.map(({ file }) => file);
  const made = await patiently(() => send("v1/entries?partial=true", files, { label: wanted }, { "Idempotency-Key": ticket }));
  fresh.forEach((item, i) => {
    const { id, before, detail } = made.entries[i];
    if (id === undefined) refuse(item, wanted, { message: detail });
    else keep(item, wanted, made.label, [id], before);
  });
}

/** The server has it; it may write the label otherwise. */
function keep(item, wanted, label, ids, before = null) {
  item.taught = { label, before: item.taught?.before ?? before, ids };
  if (item.label === wanted) item.label = label;
  item.isSelected = false;
}

async function forget(part) {
  for (const item of part) {
    for (const id of item.taught?.ids ?? []) await change("DELETE", id);
    item.taught = null;
  }
}
