import { within } from "./mixer.js";

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
