import { CHANGED, Problem, call, isAdmin, tellChanged } from "./api.js";
import { Decisions } from "./decisions.js";
import { byId, element } from "./element.js";
import { count, percent, some, time } from "./format.js";
import { JobProgress } from "./job.js";
import { lockedPanel } from "./locked.js";
import { model, onModel } from "./model.js";
import { SuspectPanel } from "./suspect.js";

const AT_ONCE = 20;
const FEW = 6;
const section = byId("audit");
const status = element("p", { id: "audit-status", role: "status" });
const intro = element("p", { className: "soft" });
const figures = element("dl", { className: "figures", hidden: true });
const start = element("button", { type: "button", className: "primary" }, "Look for wrong labels");
const undo = element("button", { type: "button", className: "quiet", hidden: true, "aria-keyshortcuts": "u" },
  element("kbd", { ariaHidden: "true" }, "U"), "Undo");
undo.addEventListener("click", () => act("undo"));
const when = element("span", { className: "soft" });
const progress = new JobProgress("Audit");
const locked = lockedPanel(() => showAudit(true));
const panel = new SuspectPanel(act);
const work = element("div", { className: "audit" }, intro,
  element("div", { className: "row" }, start, undo, when), progress.element, figures, panel.element);
section.append(status, locked, work);

const say = (sentence) => { status.textContent = sentence; };

let isShown = false;
let isWatching = false;
/** Whether others are still to be told that entries have changed. */
let isChanged = false;
let report = null;
/** Suspects that are here and not decided; where to go on asking for more, null where there are no more. */
let queue = [];
let next = null;
let isLoading = false;
/** How often the server was asked anew: what was asked for before is of no use then. */
let loads = 0;

async function attempt(work_) {
  try {
    await work_();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    say(problem.message);
  }
}

const NAMES = { right: "right", relabel: "relabelled", remove: "removed" };

/** Count a decision, or (-1) count it no more, until the server is asked anew. */
function tally({ kind }, by) {
  report.decided[NAMES[kind]] += by;
  report.open -= by;
  showFigures();
}

const decisions = new Decisions((decision, problem, isUndo) => {
  if (problem.kind === "generation-changed") {
    attempt(load).then(() => say("Another generation answers by now: look again."));
    return;
  }
  if (!isUndo && problem.status === 404) {
    say("Somebody has removed it already.");
    return;
  }
  tally(decision, isUndo ? 1 : -1);
  if (isUndo) queue = queue.filter((one) => one !== decision.suspect);
  else queue.unshift(decision.suspect);
  showNext(panel.element.contains(document.activeElement));
  say(`${isUndo ? "Not taken back" : "Not kept"}: ${problem.message}`);
});

/** The view comes into sight, or leaves it. */
export function showAudit(isVisible) {
  isShown = isVisible;
  locked.hidden = isAdmin();
  work.hidden = !isAdmin();
  if (!isVisible && isChanged) {
    isChanged = false;
    decisions.chain.then(tellChanged);
  }
  if (isVisible && isAdmin() && !decisions.sending) attempt(load);
}

document.addEventListener(CHANGED, () => { if (isShown && isAdmin()) attempt(load); });

onModel(({ teachable }) => {
  start.disabled = !teachable || isWatching;
  intro.textContent = model.isEmpty
    ? "Nothing is known yet: there is nothing to look through."
    : "Each known image is asked of its neighbours. Those whose neighbours would have given another label are shown here, "
      + "the most suspicious first; most are hard and not wrong. What you decide is kept, and not asked again.";
});

async function load() {
  loads += 1;
  await decisions.chain;
  const jobs = await call("GET", "v1/admin/jobs");
  const running = jobs.find(({ kind, state }) => kind === "audit" && state === "running");
  if (running) watch(running.id);
  const hadFocus = panel.element.contains(document.activeElement);
  report = await call("GET", `v1/admin/audit?limit=${AT_ONCE}`);
  queue = report.suspects;
  next = report.next;
  start.textContent = report.job ? "Look again" : "Look for wrong labels";
  start.className = report.job ? "quiet" : "primary";
  showFigures();
  showNext(hadFocus);
}

async function loadMore() {
  if (next === null || isLoading) return;
  isLoading = true;
  const before = loads;
  try {
    const more = await call("GET", `v1/admin/audit?limit=${AT_ONCE}&after=${next}`);
    if (before !== loads) return;
    if (more.job !== report.job) {
      attempt(load);
      return;
    }
    queue.push(...more.suspects);
    next = more.next;
  } finally {
    isLoading = false;
  }
  if (panel.element.hidden) showNext(false);
}

function showFigures() {
  figures.hidden = !report?.job;
  if (figures.hidden) return;
  const { finished, images, open, decided } = report;
  when.textContent = `Looked at ${some(images, "image")}, ${time(finished)}.`;
  const facts = {
    "To be decided": count(open),
    "Right as they are": count(decided.right), Relabelled: count(decided.relabelled), Removed: count(decided.removed),
  };
  figures.replaceChildren(...Object.entries(facts).map(([name, value]) => element("div", {},
    element("dt", {}, name), element("dd", {}, value))));
}

function inWords({ entry, suggested, suggested_vote: vote }) {
  return `Labelled ${entry.label}, its neighbours say ${suggested}, ${percent(vote)}`;
}

/** Show the first of those that are not decided. */
function showNext(hasFocus) {
  undo.hidden = !decisions.made.length;
  const [first] = queue;
  if (first) {
    panel.show(first, hasFocus);
  } else {
    panel.element.hidden = true;
    if (hasFocus) (undo.hidden ? start : undo).focus();
  }
  if (queue.length < FEW) attempt(loadMore);
}

const DONE = { right: (label) => `Right: ${label}.`, relabel: (_, label) => `Relabelled ${label}.`, remove: () => "Removed." };

function act(what, label) {
  let said = "";
  if (what === "later") {
    if (queue.length < 2) return;
    queue.push(queue.shift());
  } else if (what === "undo") {
    if (!decisions.made.length) return;
    if (!decisions.canUndo) {
      say("That cannot be taken back: the picture was taught here, and was erased with its removal.");
      return;
    }
    const taken = decisions.undo();
    queue.unshift(taken.suspect);
    tally(taken, -1);
    isChanged ||= taken.kind !== "right";
    said = "Taken back. ";
  } else {
    const suspect = queue.shift();
    const kind = what === "relabel" && label === suspect.entry.label ? "right" : what;
    decisions.decide(suspect, kind, label);
    tally({ kind }, 1);
    isChanged ||= kind !== "right";
    said = `${DONE[kind](suspect.entry.label, label)} `;
  }
  showNext(true);
  const [now] = queue;
  say(said + (now ? `${inWords(now)}. ${some(report.open, "suspect")} left.` : "All are decided."));
}

async function watch(id) {
  if (isWatching) return;
  isWatching = start.disabled = true;
  await attempt(async () => {
    const job = await progress.watch(id);
    say(job.state === "succeeded" ? `${job.found[0].toUpperCase()}${job.found.slice(1)}.` : `The audit ${job.state}${job.error ? `: ${job.error}` : "."}`);
    isWatching = false;
    if (isShown) await load();
  });
  isWatching = false;
  start.disabled = !model?.teachable;
}

start.addEventListener("click", () => attempt(async () => {
  say("Looking at all known images …");
  const { id } = await call("POST", "v1/admin/audit");
  watch(id);
}));
