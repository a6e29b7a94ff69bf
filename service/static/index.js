import { element } from "./element.js";

const form = document.getElementById("ask");
const status = document.getElementById("status");
const answers = document.getElementById("answers");
const key = document.getElementById("key");

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function verdict(prediction) {
  const { network, cache, novelty } = prediction;
  const parts = [element("h2", {}, `${prediction.label}, ${percent(prediction.probability)}`)];
  if (novelty.is_novel) {
    parts.push(element("p", { className: "bad" }, "Unlike all known images: take the answer with care."));
  }
  for (const { label, probability } of prediction.top) {
    const meter = element("meter", { value: probability });
    meter.setAttribute("aria-label", label);
    parts.push(element("p", { className: "soft" }, meter, ` ${percent(probability)} ${label}`));
  }
  const alone = `Network alone: ${network.label}, ${percent(network.probability)}. `
    + `Nearest images: ${cache.label}, ${percent(cache.probability)}.`;
  parts.push(element("p", { className: "soft" }, alone));
  const thumbnails = prediction.neighbors.map(({ id, label, similarity }) => {
    const text = `${label}, similarity ${similarity.toFixed(3)}`;
    const image = element("img", { src: `/v1/entries/${id}/thumbnail`, alt: text, title: text });
    image.addEventListener("error", () => image.replaceWith(text));
    return element("li", {}, image);
  });
  const list = element("ul", { className: "thumbnails" }, ...thumbnails);
  list.setAttribute("aria-label", "Nearest known images");
  parts.push(list);
  return parts;
}

function card(file, outcome) {
  const picture = element("img", { className: "picture", alt: "", src: URL.createObjectURL(file) });
  const free = () => URL.revokeObjectURL(picture.src);
  picture.addEventListener("load", free);
  picture.addEventListener("error", () => { free(); picture.remove(); });
  const said = outcome.detail === undefined
    ? verdict(outcome)
    : [element("p", { className: "bad" }, outcome.detail)];
  return element("li", {}, picture, element("div", {}, ...said, element("p", { className: "soft" }, file.name)));
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  const files = [...form.elements.file.files];
  button.disabled = true;
  answers.replaceChildren();
  status.textContent = "Looking …";
  try {
    const headers = key.value ? { Authorization: `Bearer ${key.value.trim()}` } : {};
    const response = await fetch(form.action, { method: "POST", body: new FormData(form), headers });
    const body = await response.json();
    if (response.ok) {
      answers.replaceChildren(...files.map((file, i) => card(file, body.predictions[i])));
      status.textContent = `${files.length === 1 ? "1 image" : `${files.length} images`}, generation ${body.generation}.`;
    } else {
      status.textContent = body.detail;
      // Some servers want a key; it is kept in the page alone.
      if (response.status === 401 || response.status === 403) {
        document.getElementById("ask-key").hidden = false;
        key.focus();
      }
    }
  } catch {
    status.textContent = "The server does not answer. Is it running?";
  }
  button.disabled = false;
});

fetch("/v1/model").then((response) => response.json()).then(({ classes, entries }) => {
  const count = entries.toLocaleString("en");
  document.getElementById("model").textContent = `${count} known images of ${classes.length} classes.`;
}).catch(() => {});
