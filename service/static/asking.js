import { inShort, toAnswer } from "./answer.js";
import { Problem, call, predict } from "./api.js";
import { patiently } from "./away.js";
import { changed } from "./items.js";
import { loadModel, model } from "./model.js";

const ALL_AT_ONCE = 8;
const SHORT_AT_ONCE = 32;
const BYTES_AT_ONCE = 24 << 20;
/** Requests on their way: one is computed while the next is sent. What waits is on the disk, not in memory. */
const IN_FLIGHT = 2;

/** The kind of problem where neither network nor cache has anything to say. */
const NOTHING_TAUGHT = "nothing-taught";
/** Statuses that say of a file that it is not an image that can be answered; it is not, however often it is sent. */
const FINAL = [400, 413, 415, 422];

/** Whether an image that failed may be answered when it is sent again. */
export const mayWork = ({ status, kind }) => kind === "image-too-slow" || !FINAL.includes(status);

const queue = [];
let running = 0;

/** Parts of a list that may go in one request. */
function portions(items, most) {
  const parts = [];
  let bytes = Infinity;
  for (const item of items) {
    if (bytes + item.file.size > BYTES_AT_ONCE || parts.at(-1).length === most) {
      parts.push([]);
      bytes = 0;
    }
    parts.at(-1).push(item);
    bytes += item.file.size;
  }
  return parts;
}

/** What a file is by its name, where that is no image: a film would be sent for long, to be refused. */
function otherType({ type }) {
  return type && !type.startsWith("image/") && type !== "application/octet-stream" ? type : "";
}

/**
 * Ask the server about items, each of which changes as soon as it is answered; `isShort` where a small card is all
 * that is drawn of them.
 */
export async function ask(asked, isShort = false) {
  const images = [];
  for (const item of asked) {
    const type = otherType(item.file);
    if (type) item.fail({ detail: `${item.file.name}: this is no image, it is ${type}.`, status: 415, kind: "no-image" });
    else images.push(item);
  }
  changed(asked.filter(({ state }) => state === "failed"));
  if (!images.length) return;
  if (model?.isEmpty) await patiently(loadModel); // unless somebody else has taught it
  if (model?.isEmpty) {
    for (const item of images) item.wait();
    changed(images);
    return;
  }
  const parts = portions(images, isShort ? SHORT_AT_ONCE : ALL_AT_ONCE);
  const answered = parts.map((items) => new Promise((done) => {
    // Who has opened one does not wait for thousands.
    if (isShort) queue.push({ items, isShort, done });
    else queue.unshift({ items, isShort, done });
  }));
  pump();
  await Promise.all(answered);
}

function pump() {
  while (running < IN_FLIGHT && queue.length) {
    const part = queue.shift();
    running += 1;
    answer(part).finally(() => {
      running -= 1;
      part.done();
      pump();
    });
  }
}

async function answer({ items: all, isShort }) {
  const items = all.filter(({ isGone }) => !isGone);
  if (!items.length) return;
  try {
    // What others taught meanwhile is in the model's counts, which the mixing needs.
    const news = isShort ? null : loadModel().catch(() => null);
    const [{ body, predictions }] = await Promise.all([patiently(() => tell(items, isShort)), news]);
    const isNews = body && (!model || body.generation !== model.generation
      || predictions.some(({ top = [] }) => top.some(({ label, index }) => model.classes[index] !== label)));
    if (isNews) await patiently(loadModel);
    items.forEach((item, i) => settle(item, predictions[i], body, isShort));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    // Whoever has no key is asked for it once.
    const others = problem.isGivenUp ? queue.splice(0) : [];
    for (const { items: unsent, done } of others) {
      for (const item of unsent) failWith(item, problem);
      changed(unsent);
      done();
    }
    for (const item of items) failWith(item, problem);
  }
  changed(items);
}

function settle(item, said, body, isShort) {
  if (said.top) item.say(inShort(said, body), isShort ? null : toAnswer(said, body, model));
  else failWith(item, { message: said.detail, status: said.status ?? 0, kind: (said.type ?? "").split(":").pop() });
}

function failWith(item, { message: detail, status, kind }) {
  if (kind === NOTHING_TAUGHT) item.wait();
  else item.fail({ detail, status, kind });
}

const isReadable = ({ file }) => file.slice(0, 1).arrayBuffer().then(() => true, () => false);
const isThere = () => call("GET", "livez").then(() => true, ({ status }) => status > 0);
const failed = (file, why) => ({ detail: `${file.name}: ${why}`, status: 0 });

/** What the server says of items; of those that cannot be sent, why. Throws a Problem where it is away. */
async function tell(items, isShort) {
  const files = items.map(({ file }) => file);
  try {
    return await predict(files, isShort);
  } catch (problem) {
    if (!(problem instanceof Problem) || problem.status) throw problem;
    // Either the server is away, or a file cannot be sent: it was moved since, or the connection breaks over it.
    const readable = await Promise.all(items.map(isReadable));
    if (readable.every(Boolean) && !await isThere()) throw problem;
    if (items.length === 1) {
      if (!readable[0]) {
        return { body: null, predictions: [{ ...failed(files[0], "it cannot be read any more: choose it again."), status: 400 }] };
      }
      // It may have been started anew just now.
      return await predict(files, isShort).catch((again) => {
        if (again.status) throw again;
        return { body: null, predictions: [failed(files[0], "the connection broke while it was sent.")] };
      });
    }
    const each = [];
    for (const item of items) each.push(await tell([item], isShort));
    return { body: each.find(({ body }) => body)?.body ?? null, predictions: each.flatMap(({ predictions }) => predictions) };
  }
}
