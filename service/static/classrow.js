import { element } from "./element.js";
import { count, some } from "./format.js";
import { mended } from "./labelling.js";

const PICTURES = 8;
const SIDE = 96;
const NAMED = 3;

/** Photos are made small one after the other, whichever row wants them. */
let making = Promise.resolve();

/** A class that is to be taught: its name, its photos, and what the server did not take of them. */
export class ClassRow {
  #field;
  #pictures;
  #said;
  #refused = new Map();
  #on;

  constructor(name, files, on) {
    this.#on = on;
    this.files = [];
    this.#field = element("input", { value: name, maxLength: 100, autocomplete: "off", spellcheck: false, ariaLabel: "Name of the class", placeholder: "what they show" });
    this.#field.setAttribute("list", "labels");
    this.#pictures = element("div", { className: "pictures" });
    this.#said = element("p", { className: "soft", role: "status" });
    const chosen = element("input", { type: "file", accept: "image/*", multiple: true, hidden: true, ariaLabel: "Photos of the class" });
    const choose = element("button", { type: "button", className: "quiet" }, "Add photos");
    const camera = element("button", { type: "button", className: "quiet" }, "Use the camera");
    const remove = element("button", { type: "button", className: "link" }, "Remove");
    remove.setAttribute("aria-label", "Remove this class from the list");
    this.#field.addEventListener("input", () => on.onChange());
    choose.addEventListener("click", () => chosen.click());
    chosen.addEventListener("change", () => { this.add([...chosen.files]); chosen.value = ""; });
    camera.addEventListener("click", () => on.onBurst(this));
    remove.addEventListener("click", () => on.onRemove(this));
    this.element = element("li", { className: "panel class-row" },
      element("div", { className: "row between" }, this.#field, remove),
      this.#pictures, this.#said,
      element("div", { className: "row" }, choose, camera, chosen));
    this.add(files);
  }

  get name() { return mended(this.#field.value); }

  set name(name) { this.#field.value = name; }

  /** Photos that the server has not refused. */
  get waiting() { return this.files.filter((file) => !this.#refused.has(file)); }

  focus() { this.#field.focus(); }

  add(files) {
    this.files.push(...files);
    this.#show();
  }

  forgetRefusals() { this.#refused.clear(); }

  /** What became of photos that were sent: those that were taught leave the row, the others stay with the reason. */
  told(files, { entries }) {
    const taught = new Set(files.filter((file, i) => entries[i].id !== undefined));
    files.forEach((file, i) => { if (!taught.has(file)) this.#refused.set(file, entries[i].detail); });
    this.files = this.files.filter((file) => !taught.has(file));
    this.#show();
  }

  #show() {
    const shown = this.files.slice(0, PICTURES);
    this.#pictures.replaceChildren(...shown.map((file) => smallPicture(file)));
    const more = this.files.length - shown.length;
    if (more > 0) this.#pictures.append(element("span", { className: "soft" }, `+ ${count(more)}`));
    const refused = [...this.#refused];
    this.#said.textContent = refused.length
      ? `${some(refused.length, "photo was", "photos were")} not taught: ${refused.slice(0, NAMED).map(([file, why]) => `${file.name}: ${why}`).join(" ")}${refused.length > NAMED ? " …" : ""}`
      : this.files.length ? some(this.files.length, "photo") : "Drop photos of one thing here.";
    this.#on.onChange();
  }
}

function smallPicture(file) {
  const canvas = element("canvas", { width: SIDE, height: SIDE, role: "img", ariaLabel: file.name });
  making = making.then(async () => {
    if (!canvas.isConnected) return;
    try {
      const image = await createImageBitmap(file, { resizeHeight: SIDE, resizeQuality: "medium" });
      const [width, side] = [image.width, Math.min(image.width, image.height)];
      canvas.getContext("2d").drawImage(image, (width - side) / 2, 0, side, side, 0, 0, SIDE, SIDE);
      image.close();
    } catch {
      canvas.classList.add("broken"); // the server may read it all the same
    }
  });
  return canvas;
}
