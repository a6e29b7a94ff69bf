import { Problem, callWithKey, send } from "./api.js";
import { patiently } from "./away.js";

/** What to label next: images are embedded once, and the server puts them in order as often as labels came. */

/** Suggested at once: after so many labels the order is asked for anew. */
export const BATCH = 10;
/** Images that are put in order at most, as the server takes no more; of more, these are taken evenly. */
const MOST = 2000;
const FILES_AT_ONCE = 32;
const BYTES_AT_ONCE = 24 << 20;
const TRIES = 3;

/** Rows of numbers, a key and logits, by item; those of a generation that answers no more are of no use. */
let rows = new Map();
let generation = null;
/** Images of which none could be made. */
const without = new WeakSet();

/** Those that are embedded already, and of the others as many as there is room for, from everywhere. */
function chosen(items) {
  for (const item of rows.keys()) if (item.isGone) rows.delete(item);
  if (items.length <= MOST) return items;
  const known = items.filter((item) => rows.has(item)).slice(0, MOST);
  const others = items.filter((item) => !rows.has(item));
  const room = MOST - known.length;
  return [...known, ...Array.from({ length: room }, (_, i) => others[Math.floor((i * others.length) / room)])];
}

function portion(items) {
  let bytes = 0;
  const end = items.findIndex(({ file }, i) => i > 0 && (i === FILES_AT_ONCE || (bytes += file.size) > BYTES_AT_ONCE));
  return end < 0 ? items : items.slice(0, end);
}

/** What the server makes of some images: `{generation, embeddings}`, with null where one cannot be embedded. */
async function embedded(items) {
  try {
    return await patiently(() => send("v1/embed?logits=true", items.map(({ file }) => file)));
  } catch (problem) {
    if (!(problem instanceof Problem) || ![400, 413, 415, 422].includes(problem.status)) throw problem;
    if (items.length === 1) return { generation, embeddings: [{}] };
    const each = [];
    for (const item of items) each.push(await embedded([item]));
    return { generation: each.at(-1).generation, embeddings: each.flatMap(({ embeddings }) => embeddings) };
  }
}

async function embedAll(items, told) {
  for (;;) {
    const missing = items.filter((item) => !item.isGone && !rows.has(item) && !without.has(item));
    told(items.length - missing.length, items.length);
    if (!missing.length) return;
    const some = portion(missing);
    const made = await embedded(some);
    // What an older one made is compared with nothing any more.
    if (made.generation !== generation) rows = new Map();
    generation = made.generation;
    made.embeddings.forEach(({ embedding, logits = [] }, i) => {
      if (embedding) rows.set(some[i], Float32Array.of(...embedding, ...logits));
      else without.add(some[i]);
    });
  }
}

/**
 * Which of these items to label next: `{suggested, known, alike}`, each that is suggested with its item, why, and what
 * it may show. `told(done, all)` hears how many are embedded. Throws a Problem.
 */
export async function suggest(items, told) {
  const some = chosen(items);
  for (let tries = 1; ; tries += 1) {
    await embedAll(some, told);
    const there = some.filter((item) => rows.has(item) && !item.isGone);
    if (!there.length) return { suggested: [], known: 0, alike: 0 };
    const width = rows.get(there[0]).length;
    const body = new Float32Array(there.length * width);
    there.forEach((item, i) => body.set(rows.get(item), i * width));
    const headers = { "X-Shape": `${there.length},${width}`, "X-Generation": generation };
    try {
      const found = await patiently(() => callWithKey("POST", `v1/suggest?count=${BATCH}`, { body, headers }));
      return { ...found, suggested: found.suggested.map((one) => ({ ...one, item: there[one.place] })) };
    } catch (problem) {
      if (!(problem instanceof Problem) || problem.kind !== "generation-changed" || tries === TRIES) throw problem;
      rows = new Map();
    }
  }
}
