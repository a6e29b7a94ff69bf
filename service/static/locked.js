import { needAdmin } from "./api.js";
import { element } from "./element.js";

/** What stands in a view's place until the reader gives the admin key; `onOpen` is told when they do. */
export function lockedPanel(onOpen) {
  const unlock = element("button", { type: "button", className: "primary" }, "Enter the key");
  unlock.addEventListener("click", async () => { if (await needAdmin()) onOpen(); });
  return element("div", { className: "panel locked" },
    element("h3", {}, "This needs the admin key"),
    element("p", { className: "soft" }, "It is in the link that the server showed when it started, unless whoever runs it has set another. It stays in this page’s memory: a reload forgets it."),
    unlock);
}
