import { mayWork } from "./asking.js";
import { byId, element } from "./element.js";
import { names, some } from "./format.js";
import { again } from "./labelling.js";

/** What went wrong with many images, each sentence once. */

const NAMED = 5;
const list = byId("failures");
let told = "";

/** A sentence on an image without its name. */
const without = (sentence, { file }) => (sentence.startsWith(`${file.name}: `) ? sentence.slice(file.name.length + 2) : sentence);

/** Items by what is wrong with them. */
function grouped(items, sentenceOf) {
  const groups = new Map();
  for (const item of items) {
    const sentence = sentenceOf(item);
    if (!sentence) continue;
    if (!groups.has(sentence)) groups.set(sentence, []);
    groups.get(sentence).push(item);
  }
  return groups;
}

function line(items, sentence, verb, actions) {
  return element("li", { className: "callout" },
    element("p", {}, element("strong", {}, `${some(items.length, "image")} ${verb}: `), sentence),
    element("p", { className: "soft" }, names(items.map(({ name }) => name), NAMED)),
    element("div", { className: "row" }, actions.map(([text, act]) => {
      const button = element("button", { type: "button", className: "quiet" }, text);
      button.addEventListener("click", () => act(items));
      return button;
    })));
}

/** Name what failed of these; `doing` has `retry` and `remove`, of items. */
export function showFailures(items, doing) {
  const failed = grouped(items, (item) => item.problem && without(item.problem.detail, item));
  const refused = grouped(items, ({ refusal }) => refusal);
  const now = JSON.stringify([failed, refused].map((groups) => [...groups].map(([sentence, of]) => [sentence, of.length])));
  if (now === told) return;
  told = now;
  list.replaceChildren(
    ...[...failed].map(([sentence, of]) => line(of, sentence, "without an answer", [
      ...(of.every(({ problem }) => mayWork(problem)) ? [["Retry all", doing.retry]] : []),
      ["Take off the page", doing.remove],
    ])),
    ...[...refused].map(([sentence, of]) => line(of, sentence, "not taught", [["Teach again", again]])),
  );
}
