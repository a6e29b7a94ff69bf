import { Problem, call, callWithKey, needAdmin, send, tellChanged } from "./api.js";
import { patiently } from "./away.js";
import { takeBurst } from "./burst.js";
import { ClassRow } from "./classrow.js";
import { dropped } from "./dropped.js";
import { byId } from "./element.js";
import { byFolder } from "./folders.js";
import { count, some } from "./format.js";
import { JobProgress } from "./job.js";
import { mended } from "./labelling.js";
import { loadModel, model, onModel } from "./model.js";
import { reportElement } from "./report.js";

/** Classes made of photos: named, filled, taught, rebuilt, and what came of them. */

const SENT_AT_ONCE = 16;
const NAMED = 5;

const view = byId("classes");
const list = byId("own-classes");
const rebuilding = new JobProgress("Rebuild");
byId("classes-work").append(rebuilding.element);

/** The rows of the list, in order. */
let rows = [];
let isBusy = false;
/** The generation whose report is shown. */
let reported = null;

const say = (sentence) => { byId("classes-status").textContent = sentence; };

async function attempt(act) {
  try {
    await act();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    say(problem.message);
  }
}

const filled = () => rows.filter(({ files }) => files.length);

function summarize() {
  const photos = rows.reduce((sum, { files }) => sum + files.length, 0);
  const classes = new Set(filled().map(({ name }) => name).filter(Boolean)).size;
  const unnamed = filled().filter(({ name }) => !name).length;
  byId("teach-classes").disabled = isBusy || !photos || unnamed > 0;
  byId("teach-classes").textContent = photos ? `Teach ${some(photos, "photo")} of ${some(classes, "class", "classes")}` : "Teach";
  byId("classes-wanting").textContent = unnamed ? "Give each class with photos a name first." : "";
}

function addRow(name = "", files = []) {
  const row = new ClassRow(name, files, {
    onChange: summarize,
    onRemove(gone) {
      rows = rows.filter((one) => one !== gone);
      gone.element.remove();
      summarize();
      byId("add-class").focus();
    },
    onBurst: async (one) => one.add(await takeBurst(one.name)),
  });
  rows.push(row);
  list.append(row.element);
  summarize();
  return row;
}

/** Put photos, as they lie in folders, into rows of their folders' names. */
function take(found) {
  const { classes, left } = byFolder(found);
  for (const [name, files] of classes) {
    const known = rows.find((row) => row.name === mended(name)) ?? rows.find((row) => !row.name && !row.files.length);
    if (known) {
      known.name ||= mended(name);
      known.add(files);
    } else addRow(mended(name), files);
  }
  const taken = [...classes.values()].reduce((sum, files) => sum + files.length, 0);
  const notes = [...left].map(([reason, names]) => {
    const more = names.length > NAMED ? ` and ${count(names.length - NAMED)} more` : "";
    return `${some(names.length, "file")} left out, ${reason}: ${names.slice(0, NAMED).join(", ")}${more}.`;
  });
  say([`${some(taken, "photo")} of ${some(classes.size, "class", "classes")} taken.`, ...notes].join(" "));
}

byId("add-class").addEventListener("click", () => addRow().focus());
byId("choose-folder").addEventListener("click", () => byId("folder").click());
byId("folder").addEventListener("change", ({ target }) => {
  take([...target.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
  target.value = "";
});

/** While this view is in sight, what is dropped anywhere comes here, and not to the view that answers. */
const isFiles = (event) => !view.hidden && [...event.dataTransfer?.types ?? []].includes("Files");
for (const kind of ["dragenter", "dragover", "drop"]) {
  addEventListener(kind, (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    event.stopPropagation();
    if (kind !== "drop") return;
    const onto = rows.find((row) => row.element.contains(event.target));
    dropped(event.dataTransfer).then((found) => {
      if (onto && found.every(({ name }) => !name.includes("/"))) onto.add(found.map(({ file }) => file));
      else take(found);
    });
  }, { capture: true });
}

function progress(done, total) {
  const bar = byId("classes-bar");
  byId("classes-progress").hidden = false;
  bar.max = total;
  bar.value = done;
  byId("classes-count").textContent = `${count(done)} of ${some(total, "photo")} taught`;
}

/** Teach what is in the rows; photos that cannot be are kept in their row, with the reason. How many were. */
async function teachAll() {
  const total = rows.reduce((sum, { files }) => sum + files.length, 0);
  let done = 0;
  progress(0, total);
  for (const row of filled()) {
    row.forgetRefusals();
    while (row.waiting.length) {
      const some_ = row.waiting.slice(0, SENT_AT_ONCE);
      // One ticket however often it is sent: what was kept and got no answer is not kept twice.
      const ticket = crypto.getRandomValues(new Uint32Array(4)).join("-");
      const made = await patiently(() => send("v1/entries?partial=true", some_, { label: row.name }, { "Idempotency-Key": ticket }));
      row.told(some_, made);
      done += some_.length;
      progress(done, total);
    }
  }
  return total - rows.reduce((sum, { files }) => sum + files.length, 0);
}

async function rebuild() {
  const { id } = await callWithKey("POST", "v1/admin/rebuild", { body: {} });
  const job = await rebuilding.watch(id);
  if (job.state !== "succeeded") say(`The rebuild ${job.state}${job.error ? `: ${job.error}` : "."}`);
  return job.state === "succeeded";
}

async function teach() {
  if (!await needAdmin()) return;
  isBusy = true;
  summarize();
  try {
    const taught = await teachAll();
    await loadModel();
    tellChanged();
    for (const row of rows.filter(({ files }) => !files.length)) row.element.remove();
    rows = rows.filter(({ files }) => files.length);
    say(`${some(taught, "photo was", "photos were")} taught, and known at once.${rows.length ? " Those that were not are below." : ""}`);
    if (byId("then-rebuild").checked && taught && await rebuild()) {
      await loadModel();
      tellChanged();
      await showReport();
      byId("report-title").focus();
    }
  } finally {
    isBusy = false;
    byId("classes-progress").hidden = true;
    summarize();
  }
}
byId("teach-classes").addEventListener("click", () => attempt(teach));

async function showReport() {
  const report = await call("GET", "v1/report");
  reported = report.generation;
  byId("report").hidden = !report.classes.length;
  byId("report-body").replaceChildren(reportElement(report));
}

onModel((now) => {
  byId("classes-known").textContent = now.isEmpty ? "Nothing is known yet." : `Known so far: ${some(now.entries, "image")} of ${some(now.classes.length, "class", "classes")}.`;
  if (!view.hidden && now.generation !== reported) attempt(showReport);
});

/** The view comes into sight, or leaves it. */
export function showClasses(isVisible) {
  if (!isVisible) return;
  if (!rows.length) { addRow(); addRow(); }
  if (model) attempt(showReport);
}

// Half of what was typed and chosen would be gone.
addEventListener("beforeunload", (event) => { if (filled().length && !isBusy) event.preventDefault(); });
