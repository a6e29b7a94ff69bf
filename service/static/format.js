/** Numbers and counts as people read them. */

export const count = (number) => number.toLocaleString("en");

export const some = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** A share: whole per cents but near the ends, where tenths tell. */
export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  if (share < 1 && share > 0.999) return "> 99.9 %";
  return `${(100 * share).toFixed(share === 0 || share === 1 ? 0 : 1)} %`;
}

/** The same where there is little room. */
export function brief(share) {
  if (share < 0.001) return share ? "≈ 0 %" : "0 %";
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

/** A number with three digits that count, and no zeros at its end. */
export const short = (number) => String(Number(number.toPrecision(3)));

export function seconds(number) {
  if (number < 1) return `${short(1000 * number)} ms`;
  if (number < 90) return `${Math.round(number)} s`;
  return number < 5400 ? `${Math.round(number / 60)} min` : `${short(number / 3600)} h`;
}

/** A time as the reader's own clock has it; ISO 8601 in, UTC where it names no zone. */
export function time(iso) {
  const at = new Date(/Z|[+-]\d\d:\d\d$/.test(iso) ? iso : `${iso}Z`);
  return at.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** Names in a sentence: at most so many of them. */
export function names(all, most = 12) {
  const shown = all.slice(0, most).join(", ");
  return all.length > most ? `${shown} and ${count(all.length - most)} more` : shown;
}
