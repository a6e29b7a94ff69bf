import { byId, drawing, element } from "./element.js";
import { percent, seconds, short } from "./format.js";
import { model } from "./model.js";

const EVERY_MS = 2000;
/** Readings that a line shows, and that figures are taken over: a minute. */
const KEPT = 30;
const ROUTE = 'route="/v1/predict"';

/** Prometheus' text as a map from a series' name, labels and all, to its value. */
export function parse(text) {
  const series = new Map();
  for (const line of text.split("\n")) {
    const at = line.lastIndexOf(" ");
    if (at > 0 && !line.startsWith("#")) series.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return series;
}

/** What the page keeps of one reading. */
function read(series, at) {
  const buckets = [];
  for (const [name, value] of series) {
    if (!name.startsWith("secondlook_request_duration_seconds_bucket{") || !name.includes(ROUTE)) continue;
    const le = /le="([^"]+)"/.exec(name)[1];
    buckets.push([le === "+Inf" ? Infinity : Number(le), value]);
  }
  return {
    at,
    answered: series.get('secondlook_images_total{outcome="answered"}') ?? 0,
    differing: series.get("secondlook_answers_differing_total") ?? 0,
    queue: series.get("secondlook_queue_images") ?? 0,
    buckets: buckets.sort((a, b) => a[0] - b[0]),
  };
}

/** The median of what was counted between two readings of a histogram, within its bucket as if spread evenly. */
export function median(earlier, later) {
  const before = new Map(earlier);
  const counts = later.map(([le, value]) => [le, value - (before.get(le) ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (!all) return null;
  const at = counts.findIndex(([, value]) => value >= all / 2);
  const [low, under] = at ? counts[at - 1] : [0, 0];
  const [high, upTo] = counts[at];
  return high === Infinity ? low : low + ((high - low) * (all / 2 - under)) / (upTo - under);
}

const FIGURES = [
  {
    name: "Images a second",
    of: (before, now) => (now.answered - before.answered) / (now.at - before.at),
    shown: short, over: 1,
  },
  {
    name: "Median time of an answer",
    of: (before, now) => median(before.buckets, now.buckets),
    shown: seconds, over: KEPT,
  },
  { name: "Images waiting", of: (_, now) => now.queue, shown: short, over: 1 },
  {
    name: "Network and cache differ",
    needsHead: true,
    of(before, now) {
      const answered = now.answered - before.answered;
      return answered ? (now.differing - before.differing) / answered : null;
    },
    shown: percent, over: KEPT,
  },
];

let readings = [];

/** A line through values, oldest first; null where nothing was to be told. */
function sparkline(values) {
  const box = { viewBox: "0 0 120 28", preserveAspectRatio: "none" };
  const line = drawing("svg", { ...box, "aria-hidden": "true", class: "spark" });
  const most = Math.max(...values.filter((value) => value !== null), 1e-9);
  const place = (value, i) => `${120 - (values.length - 1 - i) * (120 / (KEPT - 1))},${26 - (24 * value) / most}`;
  const points = values.map((value, i) => (value === null ? null : place(value, i))).filter(Boolean);
  if (points.length > 1) line.append(drawing("polyline", { points: points.join(" ") }));
  return line;
}

function show() {
  const now = readings.at(-1);
  const figures = FIGURES.filter(({ needsHead }) => !needsHead || model?.hasHead !== false);
  byId("traffic-figures").replaceChildren(...figures.map(({ name, of, shown, over }) => {
    const values = readings.slice(1).map((reading, i) => of(readings[Math.max(0, i + 1 - over)], reading));
    const value = readings.length > 1 ? of(readings.at(Math.max(-1 - over, -readings.length)), now) : null;
    const told = value === null ? "–" : shown(value);
    return element("div", {}, element("dt", {}, name), element("dd", {}, told, sparkline(values)));
  }));
}

async function poll() {
  if (!document.hidden) {
    try {
      const response = await fetch("metrics", { cache: "no-store" });
      if (response.ok) {
        const reading = read(parse(await response.text()), performance.now() / 1000);
        // Counters that fall are those of a server that was started anew.
        if (readings.length && reading.answered < readings.at(-1).answered) readings = [];
        readings = [...readings, reading].slice(-KEPT - 1);
        show();
      }
      byId("traffic").classList.toggle("stale", !response.ok);
    } catch {
      byId("traffic").classList.add("stale");
    }
  }
  setTimeout(poll, EVERY_MS);
}
poll();
