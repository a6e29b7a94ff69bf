import { openDialog } from "./dialogs.js";
import { byId } from "./element.js";

/** The key behind the # of the address, which is taken off it and its entry in the history; null where there is none. */
export function keyInAddress() {
  const [, carried] = /^#key=(.*)/.exec(location.hash) ?? [];
  if (carried === undefined) return null;
  history.replaceState(null, "", location.pathname + location.search);
  try {
    return decodeURIComponent(carried);
  } catch {
    return carried; // no other program's doing: it will be wrong
  }
}

/** Ask for a key, with what was wrong with the one before; null where the reader closes the window. */
export function askForKey(wrong) {
  const dialog = byId("key-dialog");
  const form = dialog.querySelector("form");
  const field = byId("key");
  const said = byId("key-wrong");
  said.textContent = wrong;
  field.value = "";
  field.setAttribute("aria-invalid", String(Boolean(wrong)));
  return new Promise((resolve) => {
    let given = null;
    const submit = (event) => {
      event.preventDefault();
      given = field.value.trim() || null;
      dialog.close();
    };
    form.addEventListener("submit", submit);
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", submit);
      field.value = "";
      resolve(given);
    }, { once: true });
    openDialog(dialog);
    field.focus();
  });
}
