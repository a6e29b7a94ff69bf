/** Makes pictures small, beside the page: a photo takes longer than the screen waits to be drawn. */

const SIDE = 256;

async function small(file) {
  const whole = await createImageBitmap(file);
  try {
    // The middle, as a square: that is what a small card shows.
    const from = Math.min(whole.width, whole.height);
    const side = Math.min(SIDE, from);
    const canvas = new OffscreenCanvas(side, side);
    const drawn = canvas.getContext("2d");
    drawn.imageSmoothingQuality = "high";
    drawn.drawImage(whole, (whole.width - from) / 2, (whole.height - from) / 2, from, from, 0, 0, side, side);
    return await canvas.convertToBlob({ type: "image/webp", quality: 0.85 });
  } finally {
    whole.close();
  }
}

addEventListener("message", async ({ data: { number, file } }) => {
  // What the browser cannot show, such as TIFF, the server may answer.
  postMessage({ number, blob: await small(file).catch(() => null) });
});
