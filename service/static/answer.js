import { within } from "./mixer.js";

/** Each text once, however many answers have it. */
const texts = new Map();
function once(text) {
  if (!texts.has(text)) texts.set(text, text);
  return texts.get(text);
}

const opinion = (said) => said && { label: once(said.label), probability: said.probability };

/** The labels that are offered first for an image. */
const GUESSES = 5;

/** A prediction in short, which is what the page keeps of each of many images. */
export function inShort(prediction, { generation }) {
  const { network, cache, novelty } = prediction;
  return {
    label: once(prediction.label),
    probability: prediction.probability,
    /** known, doubtful or unknown; null where that is not calibrated. */
    standing: prediction.standing ?? null,
    network: opinion(network),
    cache: opinion(cache),
    differs: Boolean(network && cache && network.label !== cache.label),
    novelty: novelty?.score ?? null,
    isNovel: Boolean(novelty?.is_novel),
    credibility: prediction.credibility ?? null,
    guesses: prediction.top.slice(0, GUESSES).map(({ label }) => once(label)),
    generation: once(generation),
  };
}

/** A prediction as `remix` takes it, with what else the server said; `model` is what `GET /v1/model` says. */
export function toAnswer(prediction, { generation, lam, theta, k }, model) {
  const classes = [...model.classes];
  for (const { label, index } of prediction.top) classes[index] = label;
  const by = (name) => {
    const values = new Array(classes.length).fill(0);
    for (const score of prediction.top) values[score.index] = score[name] ?? 0;
    return values;
  };
  const { neighbors, decisive = null, votes = null } = prediction;
  const place = new Map(neighbors.map(({ id }, i) => [id, i]));
  const places = decisive?.ids.map((id) => place.get(id));
  return {
    classes,
    network: by("network"),
    hasNetwork: prediction.network !== null,
    cache: by("cache"),
    mixed: by("probability"),
    indices: neighbors.map(({ label }) => classes.indexOf(label)),
    shares: neighbors.map(({ weight }) => weight),
    decisive: decisive && { places, instead: classes.indexOf(decisive.instead) },
    votes,
    // Servers from before teaching count all the same.
    byClass: classes.map((_, i) => model.class_weights?.[i] ?? 1),
    isPartial: votes !== null && Math.min(k ?? Infinity, model.entries) > votes.indices.length,
    own: within({ lam, theta, k }, model.entries),
    // Their ids are positions in the generation that answered.
    neighbors: neighbors.map((neighbor) => ({ ...neighbor, generation })),
    // Nothing voted: there is no entry, or the server cannot ask for them now.
    isAlone: prediction.cache === null,
    standing: prediction.standing ?? null,
    sameAs: prediction.same_as ?? null,
    novelty: prediction.novelty,
    credibility: prediction.credibility ?? null,
    set: prediction.prediction_set ?? null,
  };
}
