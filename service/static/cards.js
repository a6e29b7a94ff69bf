import { predict } from "./api.js";
import { toAnswer } from "./answer.js";
import { bar, byId, element } from "./element.js";
import { count, names, percent, short, some } from "./format.js";
import { first, remix } from "./mix.js";
import { mixture } from "./mixer.js";
import { loadModel, model } from "./model.js";
import { NeighborTiles } from "./neighbors.js";

const SHOWN = 3;
const STANDINGS = { known: "Known", doubtful: "Doubtful", unknown: "Unknown" };
const SENT_AT_ONCE = 8;
const BYTES_AT_ONCE = 24 << 20;
/** Until the server says its own. */
const THRESHOLD = 0.5;

/** The kind of problem where neither network nor cache has anything to say. */
const NOTHING_TAUGHT = "nothing-taught";

let made = 0;

/** One image on the page, and what is said of it. */
export class Card {
  /** `doing` has what its buttons do: teach, undo, remove, select. */
  constructor(file, doing) {
    this.file = file;
    this.doing = doing;
    this.answer = null;
    /** Whether nothing could be said of it, as nothing is known. */
    this.isUntold = false;
    this.taught = null;
    const id = `card-${made += 1}`;
    this.picture = element("img", { className: "picture", alt: "", decoding: "async", src: URL.createObjectURL(file) });
    this.picture.addEventListener("error", () => this.picture.classList.add("broken"));
    this.box = element("input", { type: "checkbox", ariaLabel: `Select ${file.name}` });
    this.box.addEventListener("change", () => doing.select());
    this.standing = element("p", { className: "standing", hidden: true });
    this.label = element("h3", { id, tabIndex: -1 }, "Looking …");
    this.share = element("span", { className: "chance" });
    this.notes = element("div", { className: "notes" });
    this.body = element("div", { className: "said" });
    const close = element("button", { type: "button", className: "close" }, "×");
    close.setAttribute("aria-label", `Take ${file.name} off the page`);
    close.addEventListener("click", () => doing.remove(this));
    this.element = element(
      "li", { className: "card waiting", "aria-labelledby": id, "aria-busy": "true" },
      element("div", { className: "top" },
        element("label", { className: "pick" }, this.box, this.picture),
        element("div", { className: "verdict" },
          element("p", { className: "file", title: file.name }, file.name),
          this.standing, this.label, this.share, this.notes),
        close),
      this.body,
    );
  }

  get isSelected() { return this.box.checked && (this.answer !== null || this.isUntold); }

  /** The class that is shown now. */
  get shown() { return this.answer && this.answer.classes[first(remix(this.answer, mixture()).mixed)]; }

  free() { URL.revokeObjectURL(this.picture.src); }

  /** The image could not be answered. */
  fail(detail) {
    this.answer = null;
    this.isUntold = false;
    this.#settle();
    this.element.classList.add("failed");
    this.box.disabled = true;
    this.label.textContent = "No answer";
    this.#stand(null);
    this.share.replaceChildren();
    this.notes.replaceChildren();
    const again = element("button", { type: "button", className: "quiet" }, "Try again");
    again.addEventListener("click", () => this.doing.retry(this));
    this.body.replaceChildren(element("p", { className: "bad" }, detail), element("div", { className: "row" }, again));
  }

  /** Nothing is known that could be said of it. */
  wait() {
    this.answer = null;
    this.taught = null;
    this.isUntold = true;
    this.#settle();
    this.element.classList.remove("failed");
    this.box.disabled = false;
    delete this.element.dataset.label;
    this.label.textContent = "Not known yet";
    this.#stand(null);
    this.share.replaceChildren();
    this.notes.replaceChildren();
    const teach = element("button", { type: "button", className: "quiet" }, "Say what it shows …");
    teach.setAttribute("aria-label", `Say what ${this.file.name} shows`);
    teach.addEventListener("click", () => this.doing.teach([this]));
    this.body.replaceChildren(element("div", { className: "row" }, teach));
  }

  /** What the server says of it. */
  say(answer) {
    this.answer = answer;
    this.isUntold = false;
    // What was taught is told with the first answer that knows of it.
    if (this.taught) this.taught.isTold = true;
    this.#settle();
    this.element.classList.remove("failed");
    this.box.disabled = false;
    this.picture.alt = `The image ${this.file.name}`;
    const columns = this.#columns;
    this.bars = element("tbody");
    this.doubt = element("dl", { className: "doubt" });
    this.tiles = new NeighborTiles(answer);
    const teach = element("button", { type: "button", className: "quiet" }, "That’s wrong …");
    teach.setAttribute("aria-label", `That’s wrong: say what ${this.file.name} shows`);
    teach.addEventListener("click", () => this.doing.teach([this]));
    const hadFocus = this.body.contains(document.activeElement);
    this.body.replaceChildren(
      element("table", { className: "opinions" },
        element("caption", { className: "unseen" }, `What ${columns.slice(0, -1).join(", ")} and cache say`),
        element("thead", {}, element("tr", {},
          element("td"),
          ...columns.map((name) => element("th", { scope: "col", className: name }, name)))),
        this.bars),
      this.doubt, this.tiles.element,
      element("div", { className: "row" }, teach),
    );
    this.refresh();
    // What had the focus is replaced: the keyboard goes on at the answer.
    if (hadFocus) this.label.focus({ preventScroll: true });
  }

  /** Show it as the sliders mix it. */
  refresh() {
    if (!this.answer) return;
    const { answer } = this;
    const mixed = remix(answer, mixture());
    const winner = first(mixed.mixed);
    this.element.dataset.label = answer.classes[winner];
    this.label.textContent = answer.classes[winner];
    this.share.textContent = percent(mixed.mixed[winner]);
    // Of another mix than the model's own, no more is known than that the image is unlike anything.
    this.#stand(mixed === answer ? answer.standing : answer.standing && answer.novelty?.is_novel ? "unknown" : null);
    this.#note(mixed, winner);
    const order = mixed.mixed.map((_, i) => i).sort((a, b) => mixed.mixed[b] - mixed.mixed[a]);
    // What network and cache think of first is shown, however little the mixture thinks of it.
    const others = [...(answer.hasNetwork ? [mixed.network] : []), ...(answer.isAlone ? [] : [mixed.cache])];
    const rows = new Set([...order.slice(0, SHOWN), ...others.map(first)]);
    const values = { mixture: mixed.mixed, network: mixed.network, cache: mixed.cache };
    this.bars.replaceChildren(...order.filter((i) => rows.has(i)).map((i) => element("tr", {},
      element("th", { scope: "row", title: answer.classes[i] }, answer.classes[i]),
      ...this.#columns.map((kind) => element(
        "td", { className: first(values[kind]) === i ? "first" : "" },
        bar(values[kind][i], kind), element("span", {}, percent(values[kind][i])),
      )))));
    this.#doubt(mixed === answer);
    this.tiles.refresh(mixed, winner);
  }

  /** The opinions that there are. */
  get #columns() { return ["mixture", ...(this.answer.hasNetwork ? ["network"] : []), "cache"]; }

  #settle() {
    this.element.classList.remove("waiting");
    this.element.setAttribute("aria-busy", "false");
  }

  #stand(standing) {
    this.standing.hidden = standing === null;
    this.standing.textContent = STANDINGS[standing] ?? "";
    this.element.dataset.standing = standing ?? "";
  }

  #note(mixed, winner) {
    const { answer, taught } = this;
    const notes = [];
    const say = (className, ...parts) => notes.push(element("p", { className: `note ${className}` }, ...parts));
    if (answer.isAlone) {
      say("alone", answer.hasNetwork
        ? "The cache cannot be asked now: the network answers alone." : "The cache cannot be asked now.");
    }
    if (answer.novelty?.is_novel) say("novel", "Unlike anything I know");
    if (answer.sameAs !== null && mixed === answer) say("same", `The same picture as entry ${answer.sameAs}`);
    const byNetwork = first(mixed.network);
    const byCache = first(mixed.cache);
    if (answer.hasNetwork && byNetwork !== byCache && !answer.isAlone) {
      say("differ", `Network says ${answer.classes[byNetwork]}, cache says ${answer.classes[byCache]}`);
    }
    const own = first(answer.mixed);
    this.hasFlipped = own !== winner;
    if (this.hasFlipped) say("flip", `The model’s own mix says ${answer.classes[own]}, ${percent(answer.mixed[own])}`);
    if (mixed.isCut) say("soft", `From the nearest ${count(answer.votes.indices.length)} entries alone.`);
    if (taught?.isTold) {
      const { before, label, ids } = taught;
      const now = answer.mixed[own];
      const undo = element("button", { type: "button", className: "link" }, "Undo");
      undo.setAttribute("aria-label", `Undo teaching ${this.file.name}`);
      undo.addEventListener("click", () => this.doing.undo(this));
      const was = before && element("span", { className: "was" }, `${before.label} ${percent(before.probability)}`);
      const then = was ? [was, " → "] : ["Taught: "];
      say("taught", ...then, element("strong", {}, `${answer.classes[own]} ${percent(now)}`), " ", ids.length ? undo : "");
      if (answer.classes[own] !== label) {
        say("soft", `Taught as ${label}, which is outweighed yet: more photos of it help${answer.hasNetwork ? ", or a larger lam" : ""}.`);
      }
    }
    this.notes.replaceChildren(...notes);
  }

  #doubt(isOwn) {
    const { novelty, credibility, set } = this.answer;
    const threshold = model.calibration?.novelty?.threshold ?? THRESHOLD;
    const facts = [];
    if (novelty !== null) {
      const above = novelty.is_novel === null ? "" : `novel above ${short(threshold)}`;
      facts.push(["Novelty", novelty.score.toFixed(2), above]);
    }
    // Both were calibrated for the model's own mix alone.
    if (isOwn && credibility !== null) facts.push(["Credibility", percent(credibility), ""]);
    if (isOwn && set !== null) facts.push(["95 % set", set.length ? names(set, 6) : "none", ""]);
    this.doubt.replaceChildren(...facts.map(([name, value, more]) => element(
      "div", {}, element("dt", {}, name), element("dd", {}, value, more ? element("small", {}, ` ${more}`) : ""),
    )));
  }
}

/** Parts of a list that may go in one request. */
function portions(cards) {
  const parts = [];
  let bytes = Infinity;
  for (const card of cards) {
    if (bytes + card.file.size > BYTES_AT_ONCE || parts.at(-1).length === SENT_AT_ONCE) {
      parts.push([]);
      bytes = 0;
    }
    parts.at(-1).push(card);
    bytes += card.file.size;
  }
  return parts;
}

/** Ask the server about cards, and show what it says of each as soon as it does. */
export async function ask(cards) {
  if (model?.isEmpty) await loadModel(); // unless somebody else has taught it
  if (model?.isEmpty) {
    for (const card of cards) card.wait();
    return;
  }
  for (const part of portions(cards)) {
    // What others taught meanwhile is in the model's counts, which the mixing needs.
    const answered = predict(part.map(({ file }) => file));
    const [{ body, predictions }] = await Promise.all([answered, loadModel().catch(() => null)]);
    const isNews = body && (!model || body.generation !== model.generation
      || predictions.some(({ top = [] }) => top.some(({ label, index }) => model.classes[index] !== label)));
    if (isNews) await loadModel();
    part.forEach((card, i) => {
      const said = predictions[i];
      if (said.top) card.say(toAnswer(said, body, model));
      else if (said.kind === NOTHING_TAUGHT) card.wait();
      else card.fail(said.detail);
    });
  }
}

/** The cards in words, for those who do not see them. */
export function inWords(cards) {
  const known = cards.filter(({ answer }) => answer);
  const said = known.slice(0, 5).map(({ file, shown, answer }) => (
    `${file.name}: ${answer.standing ? `${answer.standing}, ` : ""}${shown}`
    + (answer.novelty?.is_novel ? ", unlike anything known" : "")));
  const failed = cards.length - known.length;
  const parts = [some(known.length, "image") + " answered", ...said];
  if (known.length > 5) parts.push("and more");
  if (failed) parts.push(`${some(failed, "image")} without an answer`);
  return `${parts.join(". ")}.`;
}

/** Say what goes on; `isSeen` is false where the cards show it anyway. */
export function announce(sentence, isSeen = true) {
  byId("status").textContent = sentence;
  byId("status").classList.toggle("unseen", !isSeen);
}
