import { byId } from "./element.js";
import { short } from "./format.js";
import { onModel } from "./model.js";

/** Nearest entries that the page asks the server to tell: more cannot vote here. */
const VOTES = 500;

/** What the model mixes by, and what the sliders say; null before the model is known. */
let own = null;
let chosen = null;
let hasHead = true;
let listener = () => {};

export const mixture = () => chosen;

/** Parameters as the sliders have them: a k beyond the entries, or the votes that are told, is that of them all. */
export const within = ({ lam, theta, k }, entries) => ({ lam, theta, k: k === null ? k : Math.min(k, VOTES, Math.max(1, entries)) });

/** Be told when a slider moves. */
export function onMix(told) { listener = told; }

/** What a slider can be set to: each step as much more as the one before, the model's own value among them. */
function scale(lowest, highest, steps, round, also) {
  const values = Array.from({ length: steps + 1 }, (_, i) => round(lowest * (highest / lowest) ** (i / steps)));
  return [...new Set([...values, also])].sort((a, b) => a - b);
}

const sliders = {
  lam: {
    values: () => [...new Set([...Array.from({ length: 101 }, (_, i) => i / 100), own.lam])].sort((a, b) => a - b),
    shown: (lam) => lam.toFixed(2),
    spoken: (lam) => `${lam.toFixed(2)}: ${Math.round(100 * (1 - lam))} % network, ${Math.round(100 * lam)} % cache`,
  },
  theta: {
    values: () => scale(1, 1000, 90, (value) => Number(value.toPrecision(2)), own.theta),
    shown: short,
    spoken: (theta) => `${short(theta)}`,
  },
  k: {
    values: (entries) => {
      const most = Math.max(1, Math.min(VOTES, entries));
      const counts = scale(1, most, 60, Math.round, Math.min(own.k ?? most, most));
      return own.k === null ? [...counts.slice(0, -1), null] : counts;
    },
    shown: (k) => (k === null ? "all" : String(k)),
    spoken: (k) => (k === null ? "all entries" : `the ${k} nearest entries`),
  },
};

/** Sliders that there are: without a head there is nothing to mix the cache with. */
const moving = () => Object.entries(sliders).filter(([name]) => hasHead || name !== "lam");

function show() {
  for (const [name, { input, output, scale: values, shown, spoken }] of Object.entries(sliders)) {
    const value = chosen[name];
    const at = values.indexOf(value);
    input.value = at;
    input.setAttribute("aria-valuetext", spoken(value));
    input.style.setProperty("--at", at / Math.max(1, values.length - 1));
    output.textContent = shown(value);
    input.closest(".slider").classList.toggle("moved", value !== own[name]);
  }
  const now = moving().map(([name, { shown }]) => `${name} ${shown(chosen[name])}`);
  byId("mix-now").textContent = now.join(" · ");
  byId("reset").disabled = Object.keys(own).every((name) => own[name] === chosen[name]);
}

for (const [name, slider] of Object.entries(sliders)) {
  slider.input = byId(name);
  slider.output = byId(`${name}-value`);
  slider.input.addEventListener("input", () => {
    chosen = { ...chosen, [name]: slider.scale[Number(slider.input.value)] };
    show();
    listener();
  });
}

/** Back to the model's own. */
export function resetMix() {
  if (!own) return;
  chosen = { ...own };
  show();
  listener();
}
byId("reset").addEventListener("click", () => {
  resetMix();
  moving()[0][1].input.focus();
});

// A wide page has room for the sliders; on a phone they open when asked for.
byId("mixer").open = matchMedia("(min-width: 48rem)").matches;

onModel((model) => {
  const { entries } = model;
  const before = own;
  hasHead = model.hasHead;
  own = within(model, entries);
  // What was moved stays where it was; the rest follows the model.
  const moved = moving().map(([name]) => name).filter((name) => before && chosen[name] !== before[name]);
  chosen = { ...own, ...Object.fromEntries(moved.map((name) => [name, chosen[name]])) };
  for (const [name, slider] of Object.entries(sliders)) {
    slider.scale = slider.values(entries);
    if (!slider.scale.includes(chosen[name])) chosen[name] = own[name];
    slider.input.max = slider.scale.length - 1;
    slider.input.disabled = slider.scale.length < 2;
  }
  show();
  if (before) listener();
});
