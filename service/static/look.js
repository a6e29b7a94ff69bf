import { CHANGED } from "./api.js";
import { Card, announce, ask, inWords } from "./cards.js";
import { byId, element } from "./element.js";
import { count, names, some } from "./format.js";
import { onMix } from "./mixer.js";
import { loadModel, model, onModel } from "./model.js";
import { openTeach, taughtInWords, undo } from "./teach.js";

const list = byId("cards");
let cards = [];

function showCounts() {
  const selected = cards.filter((card) => card.isSelected).length;
  document.body.classList.toggle("answered", cards.length > 0);
  byId("selection").hidden = selected === 0;
  byId("selected").textContent = `${selected} selected`;
  const flipped = cards.filter((card) => card.answer && card.hasFlipped).length;
  const differ = `${flipped} of ${some(cards.length, "answer")} ${flipped === 1 ? "differs" : "differ"}`;
  byId("flips").textContent = flipped ? `${differ} from the model’s own mix` : "";
}

const doing = {
  select: showCounts,
  teach: openTeach,
  undo,
  retry(card) { look([card]); },
  remove(card) {
    const at = cards.indexOf(card);
    cards = cards.filter((other) => other !== card);
    card.element.remove();
    card.free();
    // The keyboard goes on where it was.
    (cards[at] ?? cards[at - 1])?.label.focus() ?? byId("choose").focus();
    showCounts();
  },
};

/** Put images on the page, the newest first, and ask about them. */
async function add(files) {
  if (!files.length) return;
  const added = [...files].map((file) => new Card(file, doing));
  cards = [...added, ...cards];
  list.prepend(...added.map((card) => card.element));
  for (const card of added) sight.observe(card.element);
  showCounts();
  added[0].element.scrollIntoView({ block: "nearest" });
  await look(added);
}

async function look(asked) {
  announce(`Looking at ${some(asked.length, "image")} …`);
  await ask(asked);
  showCounts();
  const untold = asked.filter((card) => card.isUntold);
  announce(untold.length ? "Nothing is known yet." : inWords(asked), false);
  if (untold.length && model.teachable && !document.querySelector("dialog[open]")) openTeach(untold);
}

async function askAll() {
  await loadModel();
  const asked = cards.filter((card) => card.answer || card.isUntold);
  if (!asked.length) return;
  await ask(asked);
  showCounts();
  const taught = asked.filter((card) => card.taught && card.answer);
  announce(taught.length ? `${taughtInWords(taught)}.` : inWords(asked), false);
}
document.addEventListener(CHANGED, () => askAll().catch((problem) => announce(problem.message)));

// However quickly a slider moves, what is in sight is mixed once for each time that the screen is drawn; the rest when
// it rests.
const RESTS_MS = 150;
const MIXED_AT_ONCE = 6;
const inSight = new Set();
const sight = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    if (isIntersecting) inSight.add(target);
    else inSight.delete(target);
  }
  mixSome(stale.filter(({ element }) => inSight.has(element)));
});
let stale = [];
let isDue = false;
let resting = null;

function mixSome(some_) {
  for (const card of some_) card.refresh();
  stale = stale.filter((card) => !some_.includes(card));
  showCounts();
}

function mixRest() {
  if (!stale.length) return;
  mixSome(stale.slice(0, MIXED_AT_ONCE));
  resting = setTimeout(mixRest);
}

onMix(() => {
  stale = [...cards];
  clearTimeout(resting);
  resting = setTimeout(mixRest, RESTS_MS);
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    mixSome(stale.filter(({ element }) => inSight.has(element)));
  });
});

for (const [opener, input] of [["choose", "files"], ["photo", "camera"]]) {
  byId(opener).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", ({ target }) => {
    add([...target.files]);
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
  add([...event.dataTransfer.files]);
});
document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData?.files.length && !document.querySelector("dialog[open]")) add([...clipboardData.files]);
});

byId("teach-selected").addEventListener("click", () => openTeach(cards.filter((card) => card.isSelected)));
const selectAll = (isSelected) => {
  for (const card of cards) card.box.checked = isSelected && !card.box.disabled;
  showCounts();
};
byId("select-all").addEventListener("click", () => selectAll(true));
byId("select-none").addEventListener("click", () => { selectAll(false); byId("select-all").focus(); });
byId("clear").addEventListener("click", () => {
  for (const card of cards) card.free();
  cards = [];
  list.replaceChildren();
  showCounts();
  announce("The page is empty.");
  byId("choose").focus();
});

onModel(({ classes, entries, network, preprocess, dataset_classes: known, network_classes: told, few_classes: few, hasHead, taught, parameters_from: source, holdout, isEmpty }) => {
  const of = `${some(classes.length, "class", "classes")}: ${names(classes)}`;
  const parts = isEmpty ? [element("strong", {}, "Nothing is known yet.")]
    : [element("strong", {}, count(entries)), ` known images of ${of}.`];
  if (classes.length === 1) parts.push(" Teach a second class, so that there is something to tell apart.");
  if (known && classes.length > known) parts.push(` ${some(classes.length - known, "class was", "classes were")} taught.`);
  if (hasHead && told < known) parts.push(` The network knows the first ${count(told)} of them.`);
  if (few?.length) parts.push(` The cache alone knows ${names(few)}, until there are more images and a rebuild.`);
  if (network && preprocess) {
    const { height, width } = preprocess.geometry;
    parts.push(` ${network.name} looks at ${width} × ${height} pixels of each image${preprocess.mirrored ? ", and of its mirror image" : ""}.`);
  }
  if (taught?.images) parts.push(` ${some(taught.images, "image was", "images were")} taught here.`);
  if (source === "leave-one-out") {
    parts.push(hasHead ? " The mix is a cautious half:" : " The vote was fitted on the known images themselves:");
    parts.push(" no images that the network never saw were there to fit it on, and doubt is not calibrated.");
  } else if (source === "holdout" && holdout) {
    parts.push(` The ${hasHead ? "mix" : "vote"} was fitted on ${some(holdout.images, "image")}: ${holdout.name}.`);
  }
  byId("model").replaceChildren(...parts);
});
