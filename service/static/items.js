/**
 * The images on the page, a state for each, and who is told when one changes. Nothing here draws: `few` shows them as
 * large cards, `many` as a grid of small ones, `detail` one of them in a window.
 */

/** Up to so many are large cards; more are a grid. */
export const FEW = 8;

export class Item {
  constructor(file, name = file.name) {
    this.file = file;
    this.name = name;
    /** waiting; answered; untold: nothing is known that could be said of it; failed. */
    this.state = "waiting";
    /** The answer in short, as `answer.js` has it; null before. */
    this.said = null;
    /** All of the answer, with which a large card is drawn; null where only the short one was asked for. */
    this.answer = null;
    /** Why there is no answer: `{detail, status, kind}`. */
    this.problem = null;
    /** The label that it is to have, and that the server may not know yet; null where it is not to be taught. */
    this.label = null;
    /** What the server was taught: `{label, before, ids}`; null where nothing was. */
    this.taught = null;
    /** Why that was refused; empty where it was not. */
    this.refusal = "";
    this.isSelected = false;
    /** Whether it was taken off the page. */
    this.isGone = false;
  }

  get isTeachable() { return this.state === "answered" || this.state === "untold"; }

  /** Whether the server does not know yet what it is to be taught of it. */
  get isPending() { return this.label !== (this.taught?.label ?? null); }

  /** What the server says of it; `answer` is null where it was asked in short. */
  say(said, answer) {
    Object.assign(this, { state: "answered", said, answer, problem: null });
    // What was taught is told with the first answer that knows of it.
    if (this.taught) this.taught.isTold = true;
  }

  /** Nothing is known that could be said of it. */
  wait() {
    const label = this.isPending ? this.label : null;
    Object.assign(this, { state: "untold", said: null, answer: null, problem: null, taught: null, label });
  }

  fail(problem) { Object.assign(this, { state: "failed", said: null, answer: null, problem, isSelected: false }); }
}

/** In the order in which they are shown where no other is asked for: what came last is first. */
let all = [];
const listeners = [];

export const items = () => all;

/** Be told which items changed, and with null that there are others. */
export function onItems(listener) { listeners.push(listener); }

function tell(some) { for (const listener of listeners) listener(some); }

/** Say that these items changed. */
export function changed(some) { if (some.length) tell(some); }

export function add(added) {
  all = [...added, ...all];
  tell(null);
}

/** Take items off the page. */
export function remove(gone) {
  for (const item of gone) item.isGone = true;
  all = all.filter((item) => !item.isGone);
  tell(null);
}

export const selected = () => all.filter((item) => item.isSelected && item.isTeachable);

/** Select these, or no longer; those of which nothing can be taught stay as they are. */
export function select(some, isSelected) {
  const others = some.filter((item) => item.isSelected !== isSelected && (item.isTeachable || !isSelected));
  for (const item of others) item.isSelected = isSelected;
  changed(others);
}
