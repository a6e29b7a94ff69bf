import { askForKey, keyInAddress } from "./key.js";

/** What the server says went wrong (RFC 9457), or a sentence of ours where it says nothing. */
export class Problem extends Error {
  constructor({ detail, status = 0, type = "", known }, retryAfter = null) {
    super(detail);
    Object.assign(this, { status, known, retryAfter, kind: type.split(":").pop() });
  }
}

// In this page's memory alone: a reload forgets it.
let key = "";
let opensAdmin = false;

/** Whether a key is known that opens the calls that change something. */
export const isAdmin = () => opensAdmin;

export function forgetKey() {
  key = "";
  opensAdmin = false;
}

/** A header has bytes: a key beyond ASCII goes as UTF-8. */
const authorization = () => `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;

/** One call; its answer, parsed. Throws a Problem. */
export async function call(method, path, { body, headers = {}, as = "json" } = {}) {
  const sent = { ...headers, ...(key ? { Authorization: authorization() } : {}) };
  const isNumbers = body instanceof Float32Array;
  const isAsItIs = body === undefined || body instanceof FormData || isNumbers;
  if (!isAsItIs) sent["Content-Type"] = "application/json";
  if (isNumbers) sent["Content-Type"] = "application/octet-stream";
  const content = isAsItIs ? body : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: content, cache: "no-store" });
  } catch {
    throw new Problem({ detail: "The server does not answer. Is it running?" });
  }
  if (response.ok && as === "response") return response;
  if (response.ok) return response.status === 204 ? null : response[as]();
  const unread = { detail: `The server answers with status ${response.status}.`, status: response.status };
  const document = await response.json().catch(() => unread);
  throw new Problem({ ...unread, ...document }, Number(response.headers.get("Retry-After")) || null);
}

const wantsKey = ({ status, kind }) => kind !== "admin-disabled" && (status === 401 || status === 403);

/** The window that asks for a key is open once, however many calls want one. */
let asking = null;
function askOnce(wrong) {
  asking ??= askForKey(wrong).finally(() => { asking = null; });
  return asking;
}

/** The same, and where a key is missing or wrong, ask for one until it fits or the reader gives up. */
export async function callWithKey(method, path, options) {
  const before = key;
  for (;;) {
    const sent = key;
    try {
      return await call(method, path, options);
    } catch (problem) {
      if (!wantsKey(problem)) throw problem;
      // Another call was given one meanwhile.
      if (key !== sent) continue;
      const given = await askOnce(key ? problem.message : "");
      if (given === null) {
        key = before;
        throw Object.assign(problem, { isGivenUp: true });
      }
      key = given;
    }
  }
}

/** Take the key from the address, where it has one that opens the calls that change something; whether it had. */
export async function takeKey() {
  const given = keyInAddress();
  if (!given) return false;
  const before = key;
  key = given;
  try {
    await call("GET", "v1/admin/jobs");
  } catch (problem) {
    // A link with a wrong one must not cost the reader theirs.
    if (key === given) key = before;
    throw problem;
  }
  opensAdmin = true;
  return true;
}

/** Have the reader give an admin key before a call that would carry images in vain; false where they do not. */
export async function needAdmin() {
  if (opensAdmin) return true;
  try {
    await callWithKey("GET", "v1/admin/jobs");
    opensAdmin = true;
  } catch (problem) {
    if (!problem.isGivenUp) throw problem;
  }
  return opensAdmin;
}

const wait = (s) => new Promise((resolve) => { setTimeout(resolve, 1000 * s); });
const PATIENCE = 5;

/** Some files in one form, after a wait where the server is busy. */
export async function send(path, files, fields = {}, headers = {}) {
  for (let tries = 1; ; tries += 1) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    for (const file of files) body.append("file", file, file.name);
    try {
      return await callWithKey("POST", path, { body, headers });
    } catch (problem) {
      if (![429, 503].includes(problem.status) || tries === PATIENCE) throw problem;
      await wait(Math.min(problem.retryAfter ?? tries, 10));
    }
  }
}

const ALL = "top=1000&neighbors=12&votes=500&coverage=0.95";
const SHORT = "top=5";

/** Statuses of what one of several files may have had all of them refused for. */
const OF_A_FILE = [400, 413, 415, 422];

/**
 * What images show: `{body, predictions}`, with a problem document where an image failed; `isShort` asks for the
 * opinions alone.
 *
 * Throws a Problem where it is not the images': the server does not answer, wants a key, knows nothing.
 */
export async function predict(files, isShort = false) {
  try {
    const body = await send(`v1/predict?${isShort ? SHORT : ALL}`, files);
    return { body, predictions: body.predictions };
  } catch (problem) {
    if (!(problem instanceof Problem) || !OF_A_FILE.includes(problem.status)) throw problem;
    if (files.length === 1) {
      const { message: detail, status, kind } = problem;
      return { body: null, predictions: [{ detail, status, type: kind }] };
    }
    const each = [];
    for (const file of files) each.push(await predict([file], isShort));
    const body = each.find((one) => one.body)?.body ?? null;
    return { body, predictions: each.flatMap((one) => one.predictions) };
  }
}

/** Said to all parts of the page: what the server answers with has changed. */
export const CHANGED = "secondlook-changed";
export const tellChanged = () => document.dispatchEvent(new Event(CHANGED));
