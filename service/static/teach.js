import { Problem, callWithKey, needAdmin, send, tellChanged } from "./api.js";
import { announce } from "./cards.js";
import { openDialog } from "./dialogs.js";
import { byId, element } from "./element.js";
import { percent, some } from "./format.js";
import { first } from "./mix.js";
import { model, onModel } from "./model.js";

const SENT_AT_ONCE = 32;
const dialog = byId("teach-dialog");
const field = byId("teach-label");
const hint = byId("teach-hint");
const wrong = byId("teach-wrong");
const button = byId("teach-send");
let cards = [];
/** One for each label that is tried: what was sent and got no answer is not taught twice. */
let tickets = new Map();

onModel(({ classes }) => {
  byId("labels").replaceChildren(...classes.map((label) => element("option", { value: label })));
});

function tellWhatIsMeant() {
  const label = field.value.trim();
  wrong.textContent = "";
  if (!label) hint.textContent = model.classes.length ? "A known label, or a new one." : "One word for all of them: that is a class.";
  else if (model.classes.includes(label)) hint.textContent = `Known: ${label} gets ${some(cards.length, "more image")}.`;
  else hint.textContent = `New: ${label} becomes a class. A handful of images makes it a good one.`;
}
field.addEventListener("input", tellWhatIsMeant);

/** Open the window that asks what these cards' images show. */
export function openTeach(chosen) {
  cards = chosen;
  tickets = new Map();
  const [{ file }] = cards;
  const subject = cards.length === 1 ? `does ${file.name}` : `do these ${cards.length} images`;
  byId("teach-title").textContent = `What ${subject} show?`;
  byId("teach-pictures").replaceChildren(...cards.slice(0, 12).map((card) => element(
    "img", { src: card.picture.src, alt: card.file.name })));
  const said = new Set(cards.map((card) => card.shown));
  const guesses = new Set(cards.flatMap(({ answer }) => {
    if (!answer) return model.classes.slice(0, 4);
    const order = answer.mixed.map((_, i) => i).sort((a, b) => answer.mixed[b] - answer.mixed[a]);
    return order.slice(0, 4).map((i) => answer.classes[i]);
  }));
  const offered = [...guesses].filter((label) => said.size > 1 || !said.has(label)).slice(0, 5);
  byId("teach-guesses").replaceChildren(...offered.map((label) => {
    const chip = element("button", { type: "button", className: "chip" }, label);
    chip.addEventListener("click", () => { field.value = label; tellWhatIsMeant(); button.focus(); });
    return chip;
  }));
  field.value = "";
  tellWhatIsMeant();
  openDialog(dialog);
  field.focus();
}

function ticketOf(label) {
  if (!tickets.has(label)) {
    // Not randomUUID, which pages over plain HTTP do not have.
    tickets.set(label, crypto.getRandomValues(new Uint32Array(4)).join("-"));
  }
  return tickets.get(label);
}

async function teach(label) {
  for (let at = 0; at < cards.length; at += SENT_AT_ONCE) {
    const part = cards.slice(at, at + SENT_AT_ONCE);
    const headers = { "Idempotency-Key": `${ticketOf(label)}-${at}` };
    const made = await send("v1/entries", part.map(({ file }) => file), { label }, headers);
    part.forEach((card, i) => {
      const { id, before } = made.entries[i];
      card.taught = { label, before: card.taught?.before ?? before, ids: [...new Set([...(card.taught?.ids ?? []), id])] };
      card.box.checked = false;
    });
  }
}

dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const label = field.value.trim();
  if (!label) {
    wrong.textContent = "Say what it shows.";
    field.focus();
    return;
  }
  button.disabled = true;
  try {
    if (!await needAdmin()) return;
    await teach(label);
    dialog.close();
    announce(`Taught ${some(cards.length, "image")} as ${label}. Looking again …`);
    tellChanged();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    wrong.textContent = problem.message;
    if (problem.known) field.value = problem.known;
    field.focus();
  } finally {
    button.disabled = false;
  }
});

/** Take back what a card taught. */
export async function undo(card) {
  try {
    for (const id of card.taught.ids) {
      await callWithKey("DELETE", `v1/entries/${id}`).catch((problem) => {
        if (problem.status !== 404) throw problem; // somebody removed it already
      });
    }
    card.taught = null;
    // The button that was pressed goes.
    card.label.focus({ preventScroll: true });
    tellChanged();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    announce(problem.message);
  }
}

/** What teaching did to the answers, in words. */
export function taughtInWords(taught) {
  return taught.map(({ file, taught: { before }, answer }) => {
    const now = first(answer.mixed);
    const then = before ? `${before.label} ${percent(before.probability)} before, ` : "";
    return `${file.name}: ${then}now ${answer.classes[now]} ${percent(answer.mixed[now])}`;
  }).join(". ");
}
