import { CHANGED, Problem, call, isAdmin } from "./api.js";
import { byId, drawing, element } from "./element.js";
import { openEntry, picture } from "./entry.js";
import { count, some } from "./format.js";
import { JobProgress } from "./job.js";
import { lockedPanel } from "./locked.js";
import { loadModel, model } from "./model.js";
import { Plane } from "./plane.js";
import { colourOf, loadPoints } from "./pointdata.js";
import { GlPoints, MARKS, PlainPoints } from "./points.js";
import { Selection } from "./selection.js";

const REACH_PX = 12;
const HOVER_MS = 60;
const KEPT = 300;
const NAMED = 40;

const section = byId("map");
const status = element("p", { id: "map-status", role: "status" });
const locked = lockedPanel(() => showMap(true));
const canvas = element("canvas", { tabIndex: 0, role: "img" });
const path = drawing("path", {});
const outline = drawing("svg", { class: "lasso", "aria-hidden": "true" }, path);
const tip = element("div", { className: "tip", hidden: true });
const note = element("p", { className: "soft" });
const legend = element("ul", { className: "legend", ariaLabel: "Classes" });
const method = element("select", { id: "map-method" },
  element("option", { value: "pca" }, "Principal components"), element("option", { value: "tsne" }, "t-SNE"));
const tool = (name, label, act) => {
  const button = element("button", { type: "button", className: "quiet", ariaLabel: label, title: label }, name);
  button.addEventListener("click", act);
  return button;
};
const lasso = tool("Lasso", "Lasso: draw around points to select them", () => useLasso(!plane.isLasso));
const make = element("button", { type: "button", className: "primary", hidden: true }, "Lay them out by t-SNE");
const progress = new JobProgress("Laying out");
const selection = new Selection({ entryOf, onClear: () => look(), say: (sentence) => say(sentence) });
const work = element("div", { className: "map" },
  element("div", { className: "row between" },
    element("label", { htmlFor: "map-method", className: "row" }, element("span", {}, "By"), method),
    element("div", { className: "row" }, lasso,
      tool("+", "Zoom in", () => plane.zoomBy(1.6)), tool("−", "Zoom out", () => plane.zoomBy(1 / 1.6)),
      tool("Whole map", "Show the whole map", () => plane.reset()))),
  make, progress.element,
  element("div", { className: "plane" }, canvas, outline, tip), note,
  element("p", { className: "soft signs" }, element("span", { className: "sign suspect", ariaHidden: "true" }), " suspects of the last audit ",
    element("span", { className: "sign taught", ariaHidden: "true" }), " taught here. Click a point to open it; shift and drag, or Lasso, to select many."),
  selection.element, legend);
section.append(status, locked, work);

const say = (sentence) => { status.textContent = sentence; };

const points = GlPoints.on(canvas) ?? PlainPoints.on(canvas);
const isPlain = points instanceof PlainPoints;
const plane = new Plane(canvas, { moved: redraw, hover, click, lasso: outlined, done: enclosed });
let data = null;
let isShown = false;
let isWatching = false;
/** The class that alone is shown in full colour; null = all are. */
let chosen = null;
let isDue = false;

async function attempt(act) {
  try {
    await act();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    say(problem.message);
  }
}

/** The view comes into sight, or leaves it. */
export function showMap(isVisible) {
  isShown = isVisible;
  locked.hidden = isAdmin();
  work.hidden = !isAdmin();
  tip.hidden = true;
  if (isVisible && isAdmin()) attempt(load);
}
document.addEventListener(CHANGED, () => { if (isShown && isAdmin()) attempt(load); });
new ResizeObserver(redraw).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => look());

async function load() {
  if (data === null) say("Laying the map out …");
  make.hidden = true;
  let now;
  try {
    // The classes that the points' numbers mean.
    [now] = await Promise.all([loadPoints(method.value), loadModel()]);
  } catch (problem) {
    if (problem.status !== 404) throw problem;
    now = null;
  }
  const isAnother = !data || !now || data.generation !== now.generation || data.method !== method.value;
  data = now;
  known.clear();
  if (!data) {
    const jobs = await call("GET", "v1/admin/jobs");
    const running = jobs.find(({ kind, state }) => kind === "map" && state === "running");
    if (running) watch(running.id);
    else make.hidden = false;
    say("Nobody has laid this generation out by t-SNE yet. With tens of thousands of images it takes minutes.");
  } else {
    data.method = method.value;
    say("");
    if (isAnother) plane.bounds = data.bounds;
  }
  if (isAnother) {
    selection.clear();
    plane.reset();
  } else {
    selection.keep(data, model.classes);
    if (selection.said) say(selection.said);
    selection.said = "";
  }
  name();
  look();
}

/** Say what is on the map, in words. */
function name() {
  const shown = data ? data.count : 0;
  const left = data && data.total > shown ? `, evenly of ${count(data.total)}` : "";
  const sample = isPlain && points.share < 1 ? " This browser has no WebGL: some thousand of them are drawn." : isPlain
    ? " This browser has no WebGL: they are drawn slowly." : "";
  note.textContent = data ? `${some(shown, "image")}${left}.${sample}` : "";
  canvas.setAttribute("aria-label", `Map of ${some(shown, "image")}: arrow keys move it, plus and minus zoom, Enter opens the image in its middle`);
  const counts = new Map();
  for (let i = 0; i < shown; i += 1) counts.set(data.classes[i], (counts.get(data.classes[i]) ?? 0) + 1);
  const classes = [...counts].sort((a, b) => b[1] - a[1]);
  legend.replaceChildren(...classes.slice(0, NAMED).map(([place, many]) => {
    const swatch = drawing("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" },
      drawing("circle", { cx: 5, cy: 5, r: 5, fill: `rgb(${colourOf(place)})` }));
    const button = element("button", { type: "button", className: "chip" }, swatch, model.classes[place] ?? "?",
      element("small", {}, count(many)));
    button.setAttribute("aria-pressed", String(chosen === place));
    button.addEventListener("click", () => {
      chosen = chosen === place ? null : place;
      for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button && chosen === place));
      look();
    });
    return element("li", {}, button);
  }), ...(classes.length > NAMED ? [element("li", { className: "soft" }, `and ${some(classes.length - NAMED, "class", "classes")} more`)] : []));
}

const isSeen = (i) => chosen === null || data.classes[i] === chosen;

/** Colour the points anew: by class, those that are not chosen faint. */
function look() {
  if (!data) {
    points.set({ positions: new Float32Array(0), colours: new Uint8Array(0), marks: new Uint8Array(0), order: new Uint32Array(0) });
    redraw();
    return;
  }
  const colours = new Uint8Array(4 * data.count);
  const marks = new Uint8Array(data.count);
  const layers = [[], [], [], []];
  const byClass = new Map();
  for (let i = 0; i < data.count; i += 1) {
    const place = data.classes[i];
    if (!byClass.has(place)) byClass.set(place, colourOf(place));
    const isBright = isSeen(i) && (!selection.size || selection.has(i));
    colours.set(byClass.get(place), 4 * i);
    colours[4 * i + 3] = isBright ? 225 : 28;
    if (isSeen(i)) marks[i] = data.isSuspect(i) ? MARKS.suspect : data.isTaught(i) ? MARKS.taught : MARKS.none;
    layers[isBright ? 1 + marks[i] : 0].push(i);
  }
  points.set({ positions: data.positions, colours, marks, order: Uint32Array.from(layers.flat()) });
  redraw();
}

function redraw() {
  if (isDue || !isShown) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    const { x, y, scale, width, height, zoom } = plane;
    const size = Math.min(14, Math.max(3.5, 260 / Math.sqrt(Math.max(data?.count ?? 1, 1))) * zoom ** 0.35);
    const ink = getComputedStyle(canvas).color.match(/\d+/g).slice(0, 3).map(Number);
    points.draw({ x, y, scale, width, height, ratio: Math.min(devicePixelRatio, 2), size, ink });
  });
}

const known = new Map();

/** What the server says of a point's entry. */
async function entryOf(i) {
  const id = data.ids[i];
  if (!known.has(id)) {
    if (known.size > KEPT) known.delete(known.keys().next().value);
    known.set(id, call("GET", `v1/entries/${id}`));
    known.get(id).catch(() => known.delete(id));
  }
  return known.get(id);
}

const below = ([x, y]) => (data ? data.nearest(x, y, REACH_PX / plane.scale, isSeen) : -1);
let hovered = -1;

function hover(at, event) {
  const i = at ? below(at) : -1;
  canvas.style.cursor = plane.isLasso ? "crosshair" : i < 0 ? "" : "pointer";
  if (i === hovered) return;
  hovered = i;
  tip.hidden = true;
  if (i < 0) return;
  const { left, top, width } = canvas.getBoundingClientRect();
  const [px, py] = [event.clientX - left, event.clientY - top];
  setTimeout(async () => {
    if (hovered !== i) return;
    const entry = await entryOf(i).catch(() => null);
    if (!entry || hovered !== i) return;
    tip.replaceChildren(picture(entry) ?? "", element("strong", {}, entry.label), element("span", { className: "soft" }, entry.taught ? "taught" : entry.source));
    tip.style.left = `${Math.min(px + 14, width - 150)}px`;
    tip.style.top = `${py + 14}px`;
    tip.hidden = false;
  }, HOVER_MS);
}

function click(at) {
  const i = below(at);
  if (i < 0) return;
  attempt(async () => {
    const entry = await entryOf(i);
    openEntry(entry);
  });
}

function useLasso(isUsed) {
  plane.isLasso = isUsed;
  lasso.setAttribute("aria-pressed", String(isUsed));
}
useLasso(false);

function outlined(polygon) {
  const { x, y, scale, width, height } = plane;
  const drawn = polygon.map(([a, b]) => `${((a - x) * scale + width / 2).toFixed(1)},${(height / 2 - (b - y) * scale).toFixed(1)}`);
  path.setAttribute("d", drawn.length ? `M${drawn.join("L")}Z` : "");
}

function enclosed(polygon) {
  outlined([]);
  useLasso(false);
  if (!data || polygon.length < 3) return;
  selection.set(data, data.inside(polygon, isSeen), model.classes);
  say(selection.size ? `${some(selection.size, "image")} selected.` : "Nothing lies in there.");
  look();
}

async function watch(id) {
  if (isWatching) return;
  isWatching = true;
  make.hidden = true;
  await attempt(async () => {
    const job = await progress.watch(id);
    isWatching = false;
    if (job.state !== "succeeded") say(`The job ${job.state}${job.error ? `: ${job.error}` : "."}`);
    else if (isShown && method.value === "tsne") await load();
    make.hidden = job.state === "succeeded";
  });
  isWatching = false;
}

make.addEventListener("click", () => attempt(async () => {
  const { id } = await call("POST", "v1/admin/map");
  say("");
  watch(id);
}));
method.addEventListener("change", () => attempt(load));
