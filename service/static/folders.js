/** Files as they lie in folders: which class each belongs to, and what is no photo. */

const PHOTO = /\.(jpe?g|png|gif|webp|bmp|tiff?|heic|heif|avif)$/i;
const SYSTEM = /^(\.|__MACOSX$|Thumbs\.db$|desktop\.ini$)/i;
const TRAINED_ON = "train";
const OTHER_SPLITS = ["test", "val", "valid", "validation"];

const isPhoto = ({ file, name }) => file.type.startsWith("image/") || PHOTO.test(name);

/**
 * Photos by class, and what is left out, by reason: `{classes: Map of name to files, left: Map of reason to names}`.
 *
 * A photo's class is the folder that it lies in; one that lies in none is of the class "". Of folders train, val and
 * test, those of train are taken: the others are there to ask about.
 */
export function byFolder(found) {
  const classes = new Map();
  const left = new Map();
  const leave = (reason, name) => left.set(reason, [...left.get(reason) ?? [], name]);
  const parts = found.map((one) => ({ ...one, path: one.name.split("/") }));
  const isSplit = ({ path }) => path.slice(0, -2).includes(TRAINED_ON);
  const hasSplits = parts.some(isSplit);
  for (const one of parts) {
    const folders = one.path.slice(0, -1);
    if (one.path.some((part) => SYSTEM.test(part))) leave("hidden or system", one.name);
    else if (!isPhoto(one)) leave("no image", one.name);
    else if (hasSplits && !isSplit(one)) leave(folders.some((part) => OTHER_SPLITS.includes(part)) ? "to ask about, not to learn from" : "beside train", one.name);
    else {
      const name = folders.at(-1) ?? "";
      classes.set(name, [...classes.get(name) ?? [], one.file]);
    }
  }
  return { classes, left };
}
