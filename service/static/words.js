import { byId } from "./element.js";
import { percent, some } from "./format.js";
import { FEW } from "./items.js";

/** The headline of an answer: the label as far as it is to be trusted, and in small what is guessed where it is not. */
export function headline(standing, label, probability) {
  switch (standing) {
    case "doubtful": return { text: `perhaps ${label}`, guess: "" };
    case "unknown": return { text: "I don’t know", guess: `my guess: ${label}, ${percent(probability)}` };
    default: return { text: label, guess: "" };
  }
}

/** Items in words, for those who do not see them. */
export function inWords(items) {
  const known = items.filter(({ said }) => said);
  const parts = [`${some(known.length, "image")} answered`];
  if (items.length <= FEW) {
    parts.push(...known.slice(0, 5).map(({ name, said: { standing, label, isNovel, probability } }) => {
      const { text, guess } = headline(standing, label, probability);
      const unlike = isNovel ? ", unlike anything known" : "";
      return `${name}: ${standing ? `${standing}, ` : ""}${guess ? `${text}, ${guess}` : text}${unlike}`;
    }));
    if (known.length > 5) parts.push("and more");
  } else {
    for (const standing of ["known", "doubtful", "unknown"]) {
      const of = known.filter(({ said }) => said.standing === standing).length;
      if (of) parts.push(`${some(of, "is", "are")} ${standing}`);
    }
  }
  const failed = items.filter(({ state }) => state === "failed").length;
  if (failed) parts.push(`${some(failed, "image")} without an answer`);
  return `${parts.join(". ")}.`;
}

/** Say what goes on; `isSeen` is false where the page shows it anyway. */
export function announce(sentence, isSeen = true) {
  byId("status").textContent = sentence;
  byId("status").classList.toggle("unseen", !isSeen);
}
