import { openDialog } from "./dialogs.js";
import { byId, element } from "./element.js";
import { some } from "./format.js";

const EVERY_MS = 250;
const SIDE = 640;

/** Take photos with the camera for as long as a button is held; the files, none where there is no camera or no wish. */
export async function takeBurst(name) {
  const dialog = byId("burst-dialog");
  const video = byId("burst-video");
  const said = byId("burst-said");
  const hold = byId("burst-hold");
  byId("burst-title").textContent = name ? `Photos of ${name}` : "Photos with the camera";
  const files = [];
  let stream = null;
  try {
    // Pages over plain HTTP from elsewhere have none.
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: SIDE, facingMode: "environment" } });
  } catch {
    said.textContent = "There is no camera, or this page may not use it: choose photos instead.";
  }
  hold.disabled = !stream;
  if (stream) {
    said.textContent = "Hold the button, and move the thing or the camera a little.";
    video.srcObject = stream;
    await video.play();
  }
  const canvas = element("canvas");
  let timer = null;
  async function take() {
    const { videoWidth: width, videoHeight: height } = video;
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", 0.92); });
    if (blob) files.push(new File([blob], `photo-${files.length + 1}.jpg`, { type: "image/jpeg" }));
    said.textContent = `${some(files.length, "photo")} taken.`;
  }
  const begin = (event) => {
    if (timer || (event.type === "keydown" && ![" ", "Enter"].includes(event.key))) return;
    take();
    timer = setInterval(take, EVERY_MS);
  };
  const end = () => { clearInterval(timer); timer = null; };
  const begins = ["pointerdown", "keydown"];
  const ends = ["pointerup", "pointerleave", "keyup", "blur"];
  for (const one of begins) hold.addEventListener(one, begin);
  for (const one of ends) hold.addEventListener(one, end);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      end();
      for (const one of begins) hold.removeEventListener(one, begin);
      for (const one of ends) hold.removeEventListener(one, end);
      for (const track of stream?.getTracks() ?? []) track.stop();
      video.srcObject = null;
      resolve(files);
    }, { once: true });
    openDialog(dialog);
  });
}
