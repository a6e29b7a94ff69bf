import { byId, element } from "./element.js";
import { count, names, some } from "./format.js";
import { onModel } from "./model.js";
import { sampleButtons } from "./samples.js";

/** What the page shows before any image is on it: what the model knows, and drawings to try it with. */

const FIRST = 24;

/** The classes, each with how many images of it are known; a long list as far as it is wanted. */
function showClasses({ classes, counts }) {
  const list = byId("known-classes");
  const chips = classes.map((label, i) => element("li", {}, label, counts ? element("small", {}, ` ${count(counts[i])}`) : ""));
  const draw = (most) => list.replaceChildren(...chips.slice(0, most));
  draw(chips.length > FIRST + 1 ? FIRST : chips.length);
  if (chips.length <= FIRST + 1) return;
  const more = element("button", { type: "button", className: "link" }, `and ${count(chips.length - FIRST)} more`);
  more.addEventListener("click", () => { draw(chips.length); list.tabIndex = -1; list.focus(); });
  list.append(element("li", {}, more));
}

/** Show what there is to begin with; `add` takes files that are to be looked at. */
export function showStart(add) {
  onModel((model) => {
    showClasses(model);
    byId("known-title").textContent = `It knows ${some(model.classes.length, "class", "classes")}, by ${some(model.entries, "image")}`;
    const samples = sampleButtons(model.classes, add);
    byId("samples").hidden = !samples.length;
    byId("sample-list").replaceChildren(...samples);
  });
}

onModel(({ classes, entries, network, preprocess, dataset_classes: known, network_classes: told, few_classes: few, hasHead, taught, parameters_from: source, holdout, isEmpty }) => {
  const of = `${some(classes.length, "class", "classes")}: ${names(classes)}`;
  const parts = isEmpty ? [element("strong", {}, "Nothing is known yet.")]
    : [element("span", { className: "of" }, element("strong", {}, count(entries)), ` known images of ${of}.`)];
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
