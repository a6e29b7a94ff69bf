import { CHANGED, Problem } from "./api.js";
import { ask } from "./asking.js";
import { openItem } from "./detail.js";
import { dropped } from "./dropped.js";
import { byId } from "./element.js";
import { asCsv, asJson, download } from "./export.js";
import { showFailures } from "./failures.js";
import { focusCard, showFew, updateFew } from "./few.js";
import { count, some } from "./format.js";
import { FEW, Item, add, changed, items, onItems, remove, select, selected } from "./items.js";
import { forgetSince, takeBack, taughtSince } from "./labelling.js";
import { shownItems, showMany, updateMany } from "./many.js";
import { resetMix } from "./mixer.js";
import { loadModel, model } from "./model.js";
import { freePictures } from "./pictures.js";
import { showStart } from "./start.js";
import { openTeach, taughtInWords } from "./teach.js";
import { announce, inWords } from "./words.js";

/** The view that answers: images come, are asked about, and are drawn as a few cards or as a grid of many. */

const isMany = () => items().length > FEW;

/** Do something, and say what is wrong where it fails. */
async function attempt(act) {
  try {
    await act();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    announce(problem.message);
  }
}

const doing = {
  teach: openTeach,
  undo: (item) => takeBack([item]),
  retry: (some_) => attempt(() => look(some_)),
  remove(gone) {
    const at = items().indexOf(gone);
    takeOff([gone]);
    // The keyboard goes on where it was.
    const next = items()[at] ?? items()[at - 1];
    if (isMany()) byId("grid").focus();
    else if (!next || !focusCard(next)) byId("choose").focus();
  },
};

function takeOff(gone) {
  remove(gone);
  freePictures();
}

/** Whether the answers are from before something was taught: with many, they are asked for when the reader wants. */
function showStale() {
  const since = taughtSince();
  byId("stale").hidden = !since || !isMany();
  byId("stale-why").textContent = `${some(since, "image was", "images were")} taught or taken back since these answers.`;
}

/** What is said of all of them together. */
function summarize() {
  const all = items();
  const waiting = all.filter(({ state }) => state === "waiting").length;
  byId("looking").hidden = !waiting || !isMany();
  byId("looking-bar").max = all.length;
  byId("looking-bar").value = all.length - waiting;
  byId("looking-count").textContent = `${count(all.length - waiting)} of ${some(all.length, "image")} looked at`;
  const teaching = all.filter(({ isPending }) => isPending).length;
  byId("teaching").textContent = teaching ? `${some(teaching, "image")} on the way to be taught …` : "";
  const number = selected().length;
  byId("selection").hidden = number === 0;
  byId("selected").textContent = `${count(number)} selected`;
  showFailures(isMany() ? all : [], { retry: doing.retry, remove: takeOff });
  showStale();
}

let isDue = false;
let wasMany = false;

onItems((some_) => {
  document.body.classList.toggle("answered", items().length > 0);
  document.body.classList.toggle("many", isMany());
  if (some_ === null) {
    // The sliders mix large cards alone.
    if (isMany() && !wasMany) resetMix();
    wasMany = isMany();
    showFew(isMany() ? [] : items(), doing);
    if (isMany()) showMany(doing);
    else askRest();
  } else if (isMany()) updateMany();
  else updateFew(some_);
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    summarize();
  });
});

/** Of those that were many, and are a few now, all is asked for. */
function askRest() {
  const short = items().filter(({ state, answer }) => state === "answered" && !answer);
  if (short.length) attempt(() => ask(short));
}

/** Put images on the page, the newest first, and ask about them. */
async function put(files) {
  if (!files.length) return;
  const added = files.map(({ file, name }) => new Item(file, name));
  add(added);
  if (!isMany()) byId("cards").firstElementChild.scrollIntoView({ block: "nearest" });
  await attempt(() => look(added));
}

async function look(asked) {
  announce(`Looking at ${some(asked.length, "image")} …`);
  for (const item of asked) if (item.state === "failed") Object.assign(item, { state: "waiting", problem: null });
  changed(asked);
  await ask(asked, isMany());
  const left = asked.filter(({ isGone }) => !isGone);
  const untold = left.filter(({ state }) => state === "untold");
  announce(untold.length ? "Nothing is known yet." : inWords(left), false);
  if (untold.length && model.teachable && !document.querySelector("dialog[open]")) openTeach(untold);
}

async function askAll() {
  await loadModel();
  forgetSince();
  const asked = items().filter(({ state }) => state === "answered" || state === "untold");
  if (!asked.length) return;
  await ask(asked, isMany());
  const taught = asked.filter((item) => item.taught && item.said);
  announce(taught.length && !isMany() ? `${taughtInWords(taught)}.` : inWords(asked), false);
}

document.addEventListener(CHANGED, () => attempt(async () => {
  // What nothing could be said of can be answered now.
  const untold = items().some(({ state }) => state === "untold");
  if (!isMany() || untold) await askAll();
  else if (openItem()?.state === "answered") await ask([openItem()]);
  showStale();
}));
byId("ask-anew").addEventListener("click", () => {
  forgetSince();
  showStale();
  byId("grid").focus();
  attempt(askAll);
});

for (const [opener, input] of [["choose", "files"], ["photo", "camera"]]) {
  byId(opener).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", ({ target }) => {
    put([...target.files].map((file) => ({ file, name: file.name })));
    target.value = "";
  });
}

if (/Mac|iP/.test(navigator.platform)) byId("modifier").textContent = "⌘";

// A page that is left for a dropped image is lost: so all of it takes them.
let inside = 0;
const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
const over = (isOver) => document.body.classList.toggle("over", isOver);
document.addEventListener("dragenter", (event) => { if (hasFiles(event)) { inside += 1; over(true); } });
document.addEventListener("dragleave", (event) => { if (hasFiles(event)) { inside -= 1; over(inside > 0); } });
document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  inside = 0;
  over(false);
  location.hash = "look";
  dropped(event.dataTransfer).then(put, () => announce("What was dropped cannot be read: choose it again."));
});
document.addEventListener("paste", ({ clipboardData }) => {
  if (!clipboardData?.files.length || document.querySelector("dialog[open]")) return;
  put([...clipboardData.files].map((file) => ({ file, name: file.name })));
});

const shown = () => (isMany() ? shownItems() : items());
byId("teach-selected").addEventListener("click", () => openTeach(selected()));
byId("take-selected").addEventListener("click", () => { takeOff(selected()); byId("choose").focus(); });
byId("select-all").addEventListener("click", () => select(shown(), true));
byId("select-none").addEventListener("click", () => { select(items(), false); byId("select-all").focus(); });
byId("clear").addEventListener("click", () => {
  takeOff(items());
  announce("The page is empty.");
  byId("choose").focus();
});
for (const [button, write, name, type] of [
  ["export-csv", asCsv, "answers.csv", "text/csv"], ["export-json", asJson, "answers.json", "application/json"],
]) {
  byId(button).addEventListener("click", () => {
    download(write(shown()), name, type);
    announce(`${some(shown().length, "image")} written to ${name}.`);
  });
}

showStart(put);
