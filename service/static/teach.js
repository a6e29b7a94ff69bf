import { openDialog } from "./dialogs.js";
import { byId, element } from "./element.js";
import { percent, some } from "./format.js";
import { label, mended } from "./labelling.js";
import { model, onModel } from "./model.js";
import { smallPicture } from "./pictures.js";
import { announce } from "./words.js";

const PICTURES = 12;
const dialog = byId("teach-dialog");
const field = byId("teach-label");
const hint = byId("teach-hint");
const wrong = byId("teach-wrong");
const button = byId("teach-send");
let items = [];

onModel(({ classes }) => {
  byId("labels").replaceChildren(...classes.map((one) => element("option", { value: one })));
});

function tellWhatIsMeant() {
  const text = mended(field.value);
  wrong.textContent = "";
  if (!text) hint.textContent = model.classes.length ? "A known label, or a new one." : "One word for all of them: that is a class.";
  else if (model.classes.includes(text)) hint.textContent = `Known: ${text} gets ${some(items.length, "more image")}.`;
  else hint.textContent = `New: ${text} becomes a class. A handful of images makes it a good one.`;
}
field.addEventListener("input", tellWhatIsMeant);

function pictureOf(item) {
  const image = element("img", { alt: item.name });
  smallPicture(item, (url) => { if (url) image.src = url; }, () => dialog.open);
  return image;
}

/** Open the window that asks what these images show. */
export function openTeach(chosen) {
  items = chosen;
  const subject = items.length === 1 ? `does ${items[0].name}` : `do these ${items.length} images`;
  byId("teach-title").textContent = `What ${subject} show?`;
  const said = new Set(items.map((item) => item.said?.label));
  const guesses = new Set(items.flatMap((item) => item.said?.guesses.slice(0, 4) ?? model.classes.slice(0, 4)));
  const offered = [...guesses].filter((one) => said.size > 1 || !said.has(one)).slice(0, 5);
  byId("teach-guesses").replaceChildren(...offered.map((one) => {
    const chip = element("button", { type: "button", className: "chip" }, one);
    chip.addEventListener("click", () => { field.value = one; tellWhatIsMeant(); button.focus(); });
    return chip;
  }));
  field.value = "";
  tellWhatIsMeant();
  openDialog(dialog);
  byId("teach-pictures").replaceChildren(...items.slice(0, PICTURES).map(pictureOf));
  field.focus();
}

dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = mended(field.value);
  if (!text) {
    wrong.textContent = "Say what it shows.";
    field.focus();
    return;
  }
  button.disabled = true;
  try {
    const came = await label(items, text);
    if (!came) return;
    if (came.problem) {
      wrong.textContent = came.problem;
      if (came.known) field.value = came.known;
      field.focus();
      return;
    }
    dialog.close();
    announce(`Taught ${some(items.length, "image")} as ${text}.`);
  } finally {
    button.disabled = false;
  }
});

/** What teaching did to the answers, in words. */
export function taughtInWords(taught) {
  return taught.map(({ name, taught: { before }, said: { label: now, probability } }) => {
    const then = before ? `${before.label} ${percent(before.probability)} before, ` : "";
    return `${name}: ${then}now ${now} ${percent(probability)}`;
  }).join(". ");
}
