import { Problem } from "./api.js";
import { byId } from "./element.js";

/** The server is too busy, stops, starts, or is not reached: what could not be sent then can be later. */
const AWAY = [0, 429, 502, 503, 504];
const isAway = ({ status, kind }) => AWAY.includes(status) && kind !== "not-kept";
const LONGEST_S = 15;
/** How often what the server answers and does not do is sent; where it does not answer at all, there is no end. */
const TRIES = 10;

let tries = 0;
/** What all wait for who could not send something; null where nobody waits. */
let waiting = null;
let goOn = () => {};

function say(sentence) {
  byId("away").hidden = !sentence;
  byId("away-why").textContent = sentence;
}

/** Wait for some time, until the network is back, or until the reader wants no longer to wait: all do so together. */
function waitForServer({ message, retryAfter }) {
  if (waiting) return waiting;
  tries += 1;
  const seconds = Math.min(LONGEST_S, retryAfter ?? 2 ** (tries - 1));
  say(`${message} Whatever is on its way waits, and goes on by itself.`);
  waiting = new Promise((resolve) => {
    goOn = resolve;
    setTimeout(resolve, 1000 * seconds);
  }).then(() => { waiting = null; });
  return waiting;
}
byId("away-now").addEventListener("click", () => goOn());
addEventListener("online", () => goOn());

/** Do something with the server, and again while it is away. */
export async function patiently(act) {
  for (let times = 1; ; times += 1) {
    try {
      const done = await act();
      tries = 0;
      say("");
      return done;
    } catch (problem) {
      if (!(problem instanceof Problem) || !isAway(problem) || (problem.status && times === TRIES)) {
        say("");
        throw problem;
      }
      await waitForServer(problem);
    }
  }
}
