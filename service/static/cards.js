import { mayWork } from "./asking.js";
import { bar, element } from "./element.js";
import { count, names, percent, short } from "./format.js";
import { select } from "./items.js";
import { first, remix } from "./mix.js";
import { mixture } from "./mixer.js";
import { model } from "./model.js";
import { NeighborTiles } from "./neighbors.js";
import { showPicture } from "./pictures.js";
import { headline } from "./words.js";

const SHOWN = 3;
const STANDINGS = { known: "Known", doubtful: "Doubtful", unknown: "Unknown" };
/** Until the server says its own. */
const THRESHOLD = 0.5;

let made = 0;

/** An image on the page drawn large, with all that is said of it. */
export class Card {
  /** `doing` has what its buttons do: teach, undo, remove, retry. */
  constructor(item, doing) {
    this.item = item;
    this.doing = doing;
    this.hasFlipped = false;
    const { name } = item;
    const id = `card-${made += 1}`;
    this.picture = element("img", { className: "picture", alt: "", decoding: "async" });
    this.box = element("input", { type: "checkbox", ariaLabel: `Select ${name}` });
    this.box.addEventListener("change", () => select([item], this.box.checked));
    this.standing = element("p", { className: "standing", hidden: true });
    this.label = element("h3", { id, tabIndex: -1 });
    this.guess = element("p", { className: "guess", hidden: true });
    this.share = element("span", { className: "chance" });
    this.notes = element("div", { className: "notes" });
    this.body = element("div", { className: "said" });
    const close = this.#button("close", "×", `Take ${name} off the page`, () => doing.remove(item));
    this.element = element(
      "li", { className: "card", "aria-labelledby": id },
      element("div", { className: "top" },
        element("label", { className: "pick" }, this.box, this.picture),
        element("div", { className: "verdict" },
          element("p", { className: "file", title: name }, name),
          this.standing, this.label, this.guess, this.share, this.notes),
        close),
      this.body,
    );
    this.free = showPicture(this.picture, item);
    this.update();
  }

  /** Draw what has changed of the item. */
  update() {
    const { item } = this;
    this.box.checked = item.isSelected;
    this.box.disabled = !item.isTeachable;
    const now = [item.state, item.answer, item.said, item.problem, item.taught, item.taught?.isTold, item.label, item.refusal];
    if (this.drawn?.every((value, i) => value === now[i])) return;
    this.drawn = now;
    const hadFocus = this.body.contains(document.activeElement) || this.notes.contains(document.activeElement);
    this.element.classList.toggle("waiting", item.state === "waiting");
    this.element.classList.toggle("failed", item.state === "failed");
    this.element.setAttribute("aria-busy", String(item.state === "waiting"));
    if (item.answer) this.#answer();
    else this.#without();
    // What had the focus is replaced: the keyboard goes on at the answer.
    if (hadFocus) this.label.focus({ preventScroll: true });
  }

  /** Show it as the sliders mix it. */
  refresh() {
    const { answer } = this.item;
    if (!answer) return;
    const mixed = remix(answer, mixture());
    const winner = first(mixed.mixed);
    const isOwn = mixed === answer;
    // Of another mix than the model's own, no more is known than that the image is unlike anything.
    const standing = isOwn ? answer.standing : answer.standing && answer.novelty?.is_novel ? "unknown" : null;
    this.#head(answer.classes[winner], mixed.mixed[winner], standing, isOwn && !standing);
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
    this.#doubt(isOwn);
    this.tiles.refresh(mixed, winner);
  }

  #button(className, text, spoken, act) {
    const button = element("button", { type: "button", className }, text);
    if (spoken) button.setAttribute("aria-label", spoken);
    button.addEventListener("click", act);
    return button;
  }

  /** All that the server says of it. */
  #answer() {
    const { item } = this;
    const columns = this.#columns;
    this.picture.alt = `The image ${item.name}`;
    this.bars = element("tbody");
    this.doubt = element("dl", { className: "doubt" });
    this.tiles = new NeighborTiles(item.answer);
    this.body.replaceChildren(
      element("table", { className: "opinions" },
        element("caption", { className: "unseen" }, `What ${columns.slice(0, -1).join(", ")} and cache say`),
        element("thead", {}, element("tr", {},
          element("td"),
          ...columns.map((name) => element("th", { scope: "col", className: name }, name)))),
        this.bars),
      this.doubt, this.tiles.element,
      element("div", { className: "row" }, this.#button("quiet", "That’s wrong …",
        `That’s wrong: say what ${item.name} shows`, () => this.doing.teach([item]))),
    );
    this.refresh();
  }

  /** As long as there is no more than its name, or a short answer. */
  #without() {
    const { item } = this;
    const { said, problem, name } = item;
    this.notes.replaceChildren(...this.#onTheWay().map(([kind, sentence]) => element("p", { className: `note ${kind}` }, sentence)));
    this.hasFlipped = false;
    if (said) this.#head(said.label, said.probability, said.standing, !said.standing);
    else this.#head({ waiting: "Looking …", untold: "Not known yet", failed: "No answer" }[item.state], null, null, false);
    if (!said) delete this.element.dataset.label;
    const parts = [];
    if (problem) parts.push(element("p", { className: "bad" }, problem.detail));
    if (problem && mayWork(problem)) {
      parts.push(element("div", { className: "row" }, this.#button("quiet", "Try again", "", () => this.doing.retry([item]))));
    } else if (item.state === "untold") {
      parts.push(element("div", { className: "row" },
        this.#button("quiet", "Say what it shows …", `Say what ${name} shows`, () => this.doing.teach([item]))));
    }
    this.body.replaceChildren(...parts);
  }

  /** The opinions that there are. */
  get #columns() { return ["mixture", ...(this.item.answer.hasNetwork ? ["network"] : []), "cache"]; }

  #head(label, probability, standing, isUncalibrated) {
    const { text, guess } = headline(standing, label, probability);
    if (probability !== null) this.element.dataset.label = label;
    this.element.dataset.standing = standing ?? "";
    this.standing.hidden = !standing && !isUncalibrated;
    this.standing.textContent = isUncalibrated ? "How sure that is was not calibrated" : STANDINGS[standing] ?? "";
    this.label.textContent = text;
    this.guess.hidden = !guess;
    this.guess.textContent = guess;
    this.share.textContent = guess || probability === null ? "" : percent(probability);
  }

  /** What the server has not been taught yet, or did not want to be: kind of note and sentence. */
  #onTheWay() {
    const { refusal, isPending, label } = this.item;
    if (refusal) return [["alone", `Not taught: ${refusal}`]];
    return isPending && label !== null ? [["soft", `Teaching ${label} …`]] : [];
  }

  #note(mixed, winner) {
    const { item } = this;
    const { answer, taught } = item;
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
    for (const parts of this.#onTheWay()) say(...parts);
    if (taught?.isTold) {
      const { before, label, ids } = taught;
      const now = answer.mixed[own];
      const undo = this.#button("link", "Undo", `Undo teaching ${item.name}`, () => this.doing.undo(item));
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
    const { novelty, credibility, set } = this.item.answer;
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
