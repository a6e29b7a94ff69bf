import { Problem, call } from "./api.js";
import { byId, element } from "./element.js";
import { count, seconds, time } from "./format.js";
import { onModel } from "./model.js";

const EVERY_MS = 500;
const STATES = { running: "● running", succeeded: "✓ succeeded", failed: "✕ failed", cancelled: "– cancelled" };
let timer = null;
let say = null;
let tell = null;
/** The one that ran when it was last looked. */
let running = null;
/** The generation whose dataset the form offers. */
let known = null;

/** Look after rebuilds while the view is in sight: `saying` is told what goes wrong, `onEnd` when one is over. */
export function watchJobs(isWatching, saying, onEnd) {
  say = saying;
  tell = onEnd;
  clearTimeout(timer);
  if (isWatching) look();
}

/** Do something, and say what is wrong where it fails. */
async function attempt(act) {
  try {
    await act();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    say(problem.message);
  }
}

async function look() {
  clearTimeout(timer);
  if (!document.hidden) await attempt(async () => show(await call("GET", "v1/admin/jobs")));
  // Even where none runs: another server on the same folder may start one.
  timer = setTimeout(look, running ? EVERY_MS : 10 * EVERY_MS);
}

const rows = new Map();

function show(jobs) {
  const now = jobs.find(({ state }) => state === "running") ?? null;
  const ended = running && running !== now?.id ? jobs.find(({ id }) => id === running) : null;
  running = now?.id ?? null;
  byId("running").hidden = !now;
  byId("rebuild-send").disabled = Boolean(now);
  if (now) showProgress(now);
  byId("jobs").replaceChildren(...[...jobs].reverse().map(row));
  byId("jobs-none").hidden = jobs.length > 0;
  if (ended) {
    byId("job-status").textContent = `The ${ended.kind} ${ended.state}${ended.error ? `: ${ended.error}` : "."}`;
    tell();
  }
}

function showProgress({ id, kind, stage, done, total, eta_s: eta }) {
  const progress = byId("progress");
  if (total) {
    progress.max = total;
    progress.value = done;
  } else {
    progress.removeAttribute("value");
  }
  byId("stage").textContent = kind === "rebuild" ? stage : kind;
  byId("cancel").textContent = `Cancel the ${kind}`;
  const left = eta === null ? "" : `, ${seconds(Math.max(1, eta))} left`;
  byId("progress-text").textContent = total ? `${count(done)} of ${count(total)}${left}` : "";
  byId("cancel").dataset.job = id;
}

/** A job's line, kept so that a log that is open stays open. */
function row(job) {
  const { id, kind, state, created, finished, generation, compared, found, error } = job;
  if (!rows.has(id)) {
    const log = element("pre", { tabIndex: 0, ariaLabel: "What it wrote" });
    const summary = element("summary");
    const details = element("details", {}, summary, log);
    const made = { summary, log, line: element("li", {}, details) };
    details.addEventListener("toggle", () => { if (details.open) read(id, made); });
    rows.set(id, made);
  }
  const made = rows.get(id);
  const took = finished ? `, took ${seconds((new Date(finished) - new Date(created)) / 1000)}` : "";
  const text = error ?? compared ?? found ?? generation ?? "";
  const key = JSON.stringify([state, text, took]);
  if (made.key !== key) {
    made.key = key;
    made.summary.replaceChildren(
      element("span", { className: `badge ${state}` }, STATES[state] ?? state),
      element("span", { className: "soft" }, `${kind === "rebuild" ? "" : `${kind}, `}${time(created)}${took}`),
      element("span", { className: error ? "bad" : "" }, text));
  }
  if (made.line.firstChild.open && state === "running") read(id, made);
  return made.line;
}

const read = (id, { log }) => attempt(async () => {
  log.textContent = await call("GET", `v1/admin/jobs/${id}/log`, { as: "text" }) || "Nothing was written.";
});

const { dataset, recipe, store, mirror, force } = byId("rebuild").elements;

onModel((model) => {
  dataset.placeholder = model.dataset.name;
  if (known !== model.generation) mirror.checked = model.dataset.mirrored;
  known = model.generation;
});

byId("rebuild").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = { mirror: mirror.checked, force: force.checked };
  for (const field of [dataset, recipe, store]) if (field.value.trim()) body[field.name] = field.value.trim();
  const status = byId("job-status");
  try {
    await call("POST", "v1/admin/rebuild", { body });
    status.textContent = "The rebuild has begun.";
    await look();
    byId("cancel").focus();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    status.textContent = problem.message;
  }
});

byId("cancel").addEventListener("click", ({ target }) => attempt(async () => {
  target.disabled = true;
  try {
    await call("DELETE", `v1/admin/jobs/${target.dataset.job}`);
  } finally {
    target.disabled = false;
  }
  await look();
}));
