/**
 * The mixture's arithmetic, as model/cache.py and model/reasons.py have it (A. E. Orhan, 2018, equations 1 to 3):
 *
 *   p_cache(y) = sum_i w_i exp(theta (s_i - max s)) [v_i = y] / sum_i w_i exp(theta (s_i - max s))
 *   p(y)       = (1 - lam) p_net(y) + lam p_cache(y)
 *
 * over the k nearest, where w_i is how much an entry of that class counts (docs/decisions/011): 1, and more for classes that were taught.
 * Nothing here knows of the page: plain arrays in, plain arrays out.
 */

/**
 * Each entry's share of the vote, of votes `{indices, similarities}`, nearest first: as many shares, 0 beyond the k
 * nearest (null = all). `byClass` is how much an entry of each class counts.
 */
export function weights({ indices, similarities }, theta, k, byClass) {
  const voting = k === null ? similarities.length : Math.min(k, similarities.length);
  const highest = Math.max(...similarities.slice(0, voting));
  const raw = similarities.map((similarity, i) => (
    i < voting ? byClass[indices[i]] * Math.exp(theta * (similarity - highest)) : 0));
  const sum = raw.reduce((total, weight) => total + weight, 0);
  return raw.map((weight) => weight / sum);
}

/** p_cache, of shares of the vote, over so many classes; all 0 where nothing voted. */
export function vote(indices, shares, classes) {
  const cache = new Array(classes).fill(0);
  shares.forEach((share, i) => { cache[indices[i]] += share; });
  return cache;
}

const says = (values) => values.some((p) => p > 0);

/**
 * The mixture of p_net and p_cache. Where nothing voted, p_net alone; where that is 0 too, as without a head, all
 * classes are as likely.
 */
export function mix(network, cache, lam) {
  if (!says(network) && !says(cache)) return network.map(() => 1 / network.length);
  const share = says(cache) ? lam : 0;
  return network.map((p, i) => (1 - share) * p + share * cache[i]);
}

/** The index of the largest; the first of several. */
export const first = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

/**
 * The fewest of the listed entries without whose votes another class would win, heaviest first: their places and that
 * class, or null where the answer stays whichever of them are missing.
 */
export function decisive(network, cache, lam, indices, shares) {
  const winner = first(mix(network, cache, lam));
  const own = indices.map((_, place) => place).filter((place) => indices[place] === winner);
  own.sort((a, b) => shares[b] - shares[a]);
  const left = [...cache];
  const places = [];
  for (const place of own) {
    places.push(place);
    left[winner] = Math.max(0, left[winner] - shares[place]);
    const sum = left.reduce((total, p) => total + p, 0);
    // What rounding leaves where all votes were taken away is none, and without a head nothing else is said.
    if (sum <= 1e-6 && !says(network)) return null;
    const instead = first(sum > 1e-6 ? mix(network, left.map((p) => p / sum), lam) : network);
    if (instead !== winner) return { places, instead };
  }
  return null;
}

/**
 * What an answer is under other parameters. `answer` has what the server said: network, cache, mixed (by class),
 * indices (the listed neighbours' classes), shares (theirs of the vote), decisive, votes (or null), whether more
 * entries voted than those (isPartial), how much an entry of each class counts (byClass), and the parameters that it
 * said it under (own). Without votes theta and k cannot be followed, and the server's p_cache stands.
 */
export function remix(answer, { lam, theta, k }) {
  const { own, network, votes } = answer;
  const isOwnVote = theta === own.theta && k === own.k;
  if (isOwnVote && lam === own.lam) return answer;
  const stands = votes === null || (isOwnVote && answer.isPartial);
  const all = stands ? null : weights(votes, theta, k, answer.byClass);
  const cache = stands ? answer.cache : vote(votes.indices, all, network.length);
  const shares = stands ? answer.shares : all.slice(0, answer.shares.length);
  return {
    ...answer,
    cache,
    shares,
    mixed: mix(network, cache, lam),
    // All entries are meant, and those that were told voted.
    isCut: !stands && k === null && answer.isPartial,
    decisive: decisive(network, cache, lam, answer.indices, shares),
  };
}
