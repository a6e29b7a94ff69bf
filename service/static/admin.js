import { CHANGED, Problem, call, forgetKey, isAdmin, needAdmin, tellChanged } from "./api.js";
import { byId, element } from "./element.js";
import { loadEntries } from "./entries.js";
import { count, some, time } from "./format.js";
import { watchJobs } from "./jobs.js";
import { loadModel, onModel } from "./model.js";

const CHANGES = 20;
let isShown = false;

/** What went wrong here, in the place where all of the view's sentences stand. */
const say = (sentence) => { byId("admin-status").textContent = sentence; };

/** Do something of this view, and tell what is wrong where it fails. */
async function attempt(act) {
  try {
    say("");
    await act();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    say(problem.message);
  }
}

/** The view comes into sight, or leaves it. */
export function showAdmin(isVisible) {
  isShown = isVisible;
  watchJobs(isVisible && isAdmin(), say, tellChanged);
  byId("locked").hidden = isAdmin();
  byId("unlocked").hidden = !isAdmin();
  if (isVisible && isAdmin()) refresh();
}

async function unlock() {
  if (!await needAdmin()) return;
  showAdmin(isShown);
  byId("admin-title").focus();
}
byId("unlock").addEventListener("click", () => attempt(unlock));
byId("lock").addEventListener("click", () => { forgetKey(); showAdmin(isShown); byId("unlock").focus(); });

const refresh = () => attempt(async () => {
  await loadModel();
  await Promise.all([loadGenerations(), loadChanges(), loadEntries()]);
});
document.addEventListener(CHANGED, () => { if (isShown && isAdmin()) refresh(); });

function figure(name, value, more = "") {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value, more ? element("small", {}, more) : ""));
}

onModel(({ generation, entries, classes, dataset_classes: known, taught }) => {
  const figures = [
    figure("Entries", count(entries)),
    figure("Classes", count(classes.length), classes.length > known ? `${classes.length - known} taught` : ""),
  ];
  if (taught) {
    const { images, relabelled, removed } = taught;
    for (const [name, number] of Object.entries({ "Images taught": images, Relabelled: relabelled, Removed: removed })) {
      figures.push(figure(name, count(number)));
    }
  }
  byId("overview").replaceChildren(...figures);
  byId("answering").textContent = generation;
  byId("suggestion").hidden = !taught?.suggests_rebuild;
});

async function loadGenerations() {
  const generations = await call("GET", "v1/admin/generations");
  byId("generations").replaceChildren(...generations.reverse().map((one) => {
    const button = element("button", { type: "button", className: "quiet", disabled: !one.is_readable }, "Activate");
    button.setAttribute("aria-label", `Activate ${one.id}`);
    button.addEventListener("click", () => attempt(async () => {
      button.disabled = true;
      try {
        await call("POST", `v1/admin/generations/${encodeURIComponent(one.id)}/activate`);
      } finally {
        button.disabled = false;
      }
      tellChanged();
      say(`${one.id} answers now.`);
    }));
    const state = one.is_active ? element("span", { className: "badge on" }, "● answers") : button;
    return element("tr", { className: one.is_active ? "active" : "" },
      element("th", { scope: "row" }, element("code", {}, one.id)),
      element("td", {}, one.is_readable ? time(one.created) : "damaged, or from another version"),
      element("td", {}, one.dataset ?? ""),
      element("td", { className: "number" }, one.classes === null ? "" : count(one.classes)),
      element("td", { className: "number" }, one.entries === null ? "" : count(one.entries)),
      element("td", { className: "last" }, state));
  }));
}

function sentence({ action, label, was, source }) {
  const what = source.startsWith("taught:") ? `Image ${source.slice("taught:".length)}` : source;
  const now = element("strong", {}, label ?? was ?? "");
  if (action === "taught") return [`${what} taught as `, now];
  if (action === "confirmed") return [`${what} found right as `, now];
  if (action === "unconfirmed") return [`${what} no longer found right as `, now];
  if (action === "removed") return was ? [`${what} removed, it was `, now] : [`${what} removed`];
  return was ? [`${what} relabelled `, element("span", { className: "was" }, was), " → ", now] : [`${what} relabelled `, now];
}

let oldest = null;

async function loadChanges(before = null) {
  const page = before === null ? "" : `&before=${before}`;
  const changes = await call("GET", `v1/admin/changes?limit=${CHANGES}${page}`);
  const items = changes.map((change) => element("li", {},
    element("span", {}, ...sentence(change)), element("small", {}, `${time(change.at)}, ${change.key}`)));
  if (before === null) byId("changes").replaceChildren(...items);
  else byId("changes").append(...items);
  oldest = changes.at(-1)?.change ?? null;
  byId("changes-more").hidden = changes.length < CHANGES;
  byId("changes-none").hidden = byId("changes").children.length > 0;
  byId("changes-count").textContent = some(byId("changes").children.length, "change");
}
byId("changes-more").addEventListener("click", () => attempt(() => loadChanges(oldest)));
