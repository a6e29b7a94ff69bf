import { Problem, call } from "./api.js";

const path = ({ entry }) => `v1/entries/${entry.id}`;
const of = ({ entry }) => `?generation=${encodeURIComponent(entry.generation)}`;

const CALLS = {
  right: (suspect) => call("POST", `${path(suspect)}/confirm${of(suspect)}`, { body: { label: suspect.entry.label } }),
  relabel: (suspect, label) => call("PATCH", `${path(suspect)}${of(suspect)}`, { body: { label } }),
  remove: (suspect) => call("DELETE", `${path(suspect)}${of(suspect)}`),
};
const BACK = {
  right: (suspect) => call("DELETE", `${path(suspect)}/confirm${of(suspect)}`),
  relabel: (suspect) => call("PATCH", `${path(suspect)}${of(suspect)}`, { body: { label: suspect.entry.label } }),
  remove: (suspect) => call("POST", `${path(suspect)}/restore${of(suspect)}`, { body: { label: suspect.entry.label } }),
};

/** Decisions about suspects: sent one after the other, while the reader goes on; the last ones can be taken back. */
export class Decisions {
  /** `onFailed(decision, problem, isUndo)` is told what could not be kept, or taken back. */
  constructor(onFailed) {
    this.onFailed = onFailed;
    this.made = [];
    this.sending = 0;
    this.chain = Promise.resolve();
  }

  /** Whether the last one can be taken back: the picture of a taught image is erased with it. */
  get canUndo() {
    const last = this.made.at(-1);
    return Boolean(last) && !(last.kind === "remove" && last.suspect.entry.taught);
  }

  decide(suspect, kind, label = null) {
    const decision = { suspect, kind, label };
    this.made.push(decision);
    this.#send(() => CALLS[kind](suspect, label), (problem) => {
      this.made = this.made.filter((one) => one !== decision);
      this.onFailed(decision, problem, false);
    });
  }

  /** Take the last one back; which that was. */
  undo() {
    const last = this.made.pop();
    this.#send(() => BACK[last.kind](last.suspect), (problem) => {
      this.made.push(last);
      this.onFailed(last, problem, true);
    });
    return last;
  }

  #send(act, onFailed) {
    this.sending += 1;
    this.chain = this.chain.then(async () => {
      try {
        await act();
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        onFailed(problem);
      } finally {
        this.sending -= 1;
      }
    });
  }
}
