import { element } from "./element.js";
import { count, some } from "./format.js";

/** Classes that a matrix has at most. */
const MOST_IN_MATRIX = 24;
/** Classes in the list at first. */
const LISTED = 30;

const whole = (percent) => `${Math.round(percent)} %`;

/** A share and its interval, drawn and in words. */
function shareOf(percents) {
  if (!percents) return element("span", { className: "soft" }, "not asked");
  const [value, low, high] = percents;
  const range = element("span", { className: "interval", ariaHidden: "true" });
  for (const [name, at] of Object.entries({ "--value": value, "--low": low, "--high": high })) range.style.setProperty(name, at / 100);
  return element("span", { className: "share" }, range,
    element("span", {}, element("strong", {}, whole(value)), ` (${whole(low)} to ${whole(high)})`));
}

function classRow({ label, images, asked, right, right_percent: percents, taken_for: taken }) {
  return element("tr", {},
    element("th", { scope: "row" }, label),
    element("td", { className: "number" }, count(images)),
    element("td", { className: "number" }, asked ? `${count(right)} of ${count(asked)}` : "–"),
    element("td", {}, shareOf(percents)),
    element("td", {}, taken.slice(0, 3).map(({ label: other, count: times }) => `${other} ${count(times)}`).join(", ")));
}

const badness = ({ right_percent: percents, images }) => [percents ? percents[0] : -1, images];
function byBadness(one, other) {
  const [a, b] = [badness(one), badness(other)];
  return a[0] - b[0] || a[1] - b[1];
}

function classTable({ classes }) {
  const body = element("tbody");
  const sorted = [...classes].sort(byBadness);
  const show = (some_) => body.replaceChildren(...some_.map(classRow));
  show(sorted.slice(0, LISTED));
  const more = element("button", { type: "button", className: "link", hidden: classes.length <= LISTED }, `Show all ${count(classes.length)} classes`);
  more.addEventListener("click", () => { show(sorted); more.hidden = true; });
  const heads = ["Class", "Images", "Answered right", "Share, 95 % interval", "Taken for"];
  return element("div", {},
    element("div", { className: "scrolls", tabIndex: 0, role: "group", ariaLabel: "Classes" },
      element("table", {},
        element("thead", {}, element("tr", {}, heads.map((head, i) => element("th", { scope: "col", className: [1, 2].includes(i) ? "number" : "" }, head)))),
        body)),
    more);
}

/** What each class was answered as, a row a class. */
function matrix({ classes }) {
  const asked = classes.filter((one) => one.asked);
  if (asked.length < 2 || asked.length > MOST_IN_MATRIX) return null;
  const labels = asked.map(({ label }) => label);
  const cell = (one, label) => {
    const times = one.label === label ? one.right : one.taken_for.find((other) => other.label === label)?.count ?? 0;
    const made = element("td", { className: one.label === label ? "right" : "wrong", title: `${one.label}, answered as ${label}: ${times} of ${one.asked}` }, times ? count(times) : "");
    made.style.setProperty("--share", times / one.asked);
    return made;
  };
  return element("details", { open: true },
    element("summary", {}, element("span", { className: "title" }, "What was taken for what")),
    element("div", { className: "scrolls", tabIndex: 0, role: "group", ariaLabel: "What was taken for what" },
      element("table", { className: "matrix" },
        element("caption", { className: "soft" }, "A row for each class, a column for each answer."),
        element("thead", {}, element("tr", {}, element("td"), labels.map((label) => element("th", { scope: "col" }, element("span", {}, label))))),
        element("tbody", {}, asked.map((one) => element("tr", {}, element("th", { scope: "row" }, one.label), labels.map((label) => cell(one, label))))))));
}

/** What `GET /v1/report` says, for a person. */
export function reportElement(report) {
  const { asked, right, right_percent: percents, how, next, left_out: left, copies } = report;
  const parts = [];
  if (percents) {
    parts.push(element("p", { className: "outcome" }, element("strong", {}, whole(percents[0])), ` right: ${count(right)} of ${count(asked)} (95 % interval ${whole(percents[1])} to ${whole(percents[2])})`));
  }
  if (how) parts.push(element("p", { className: "soft" }, `${how.charAt(0).toUpperCase()}${how.slice(1)}.`));
  parts.push(element("h4", {}, "What to do next"), element("ul", { className: "advice" }, next.map((sentence) => element("li", {}, sentence))));
  parts.push(classTable(report));
  const confusions = matrix(report);
  if (confusions) parts.push(confusions);
  const notes = Object.entries(left).map(([reason, number]) => `${count(number)} ${reason}`);
  if (notes.length) parts.push(element("p", { className: "soft" }, `Left out: ${notes.join(", ")}.`));
  if (copies) parts.push(element("p", { className: "soft" }, `${some(copies, "image shows", "images show")} a picture that another one shows too; that does no harm.`));
  parts.push(element("p", {}, element("a", { href: "#audit" }, "See the images whose neighbours have another label")));
  return element("div", { className: "told" }, parts);
}
