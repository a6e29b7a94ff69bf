import { Problem, takeKey } from "./api.js";
import { showAdmin } from "./admin.js";
import { showAudit } from "./audit.js";
import { showClasses } from "./classes.js";
import { byId } from "./element.js";
import { showMap } from "./map.js";
import { loadModel } from "./model.js";
import { announce } from "./words.js";
import "./look.js";
import "./queue.js";
import "./traffic.js";

/** What each view is told when it comes into sight, or leaves it. */
const views = { look: () => {}, classes: showClasses, audit: showAudit, map: showMap, admin: showAdmin };

const tellViews = () => { for (const [name, tell] of Object.entries(views)) tell(!byId(name).hidden); };

/** Show the view that the address names. */
function show(isMove) {
  const named = location.hash.slice(1);
  // Any other fragment is a place within the view that is shown.
  if (isMove && named && !Object.hasOwn(views, named)) return;
  const view = Object.hasOwn(views, named) ? named : "look";
  for (const name of Object.keys(views)) {
    byId(name).hidden = name !== view;
    const link = byId(`to-${name}`);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = view === "look" ? "secondlook" : `secondlook: ${view}`;
  tellViews();
  if (isMove) {
    scrollTo(0, 0);
    byId(`${view}-title`).focus({ preventScroll: true });
  }
}

/** Take the key that the address carries, before anything else looks at the address. */
async function take() {
  try {
    if (!await takeKey()) return;
    announce("The key was taken from the address, and opens this server.");
    tellViews();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    announce(`The key in the address was not taken. ${problem.message}`);
  }
}

addEventListener("hashchange", () => {
  take();
  show(true);
});
take();
show(false);

loadModel().catch((problem) => {
  if (!(problem instanceof Problem)) throw problem;
  announce(problem.message);
});
