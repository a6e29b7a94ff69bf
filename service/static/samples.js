import { element } from "./element.js";

/** Three drawings of ours to begin with, where the model knows what they show; drawn here, and sent as PNG. */

const SIDE = 256;

function sky(draw, top, bottom) {
  const blue = draw.createLinearGradient(0, 0, 0, SIDE);
  blue.addColorStop(0, top);
  blue.addColorStop(1, bottom);
  draw.fillStyle = blue;
  draw.fillRect(0, 0, SIDE, SIDE);
}

function shape(draw, colour, ...points) {
  draw.fillStyle = colour;
  draw.beginPath();
  points.forEach(([x, y]) => draw.lineTo(x, y));
  draw.fill();
}

function round(draw, colour, x, y, width, height = width) {
  draw.fillStyle = colour;
  draw.beginPath();
  draw.ellipse(x, y, width, height, 0, 0, 2 * Math.PI);
  draw.fill();
}

function box(draw, colour, ...at) {
  draw.fillStyle = colour;
  draw.fillRect(...at);
}

const SAMPLES = [
  {
    name: "car",
    shows: ["car", "cars", "automobile", "automobiles"],
    draw(draw) {
      sky(draw, "#b9c6d2", "#d9dfe3");
      box(draw, "#75787c", 0, 172, SIDE, 84);
      round(draw, "#4a4c50", 128, 196, 112, 10);
      shape(draw, "#b3202a", [62, 128], [92, 84], [166, 84], [206, 128]);
      shape(draw, "#c32630", [22, 138], [34, 126], [214, 124], [238, 142], [240, 184], [18, 184]);
      shape(draw, "#2c3a48", [76, 126], [98, 93], [124, 93], [124, 126]);
      shape(draw, "#2c3a48", [132, 126], [132, 93], [162, 93], [190, 126]);
      box(draw, "#8f1a22", 20, 168, 220, 10);
      box(draw, "#f4e6b0", 228, 144, 10, 12);
      for (const x of [70, 188]) {
        round(draw, "#1d1e20", x, 184, 26);
        round(draw, "#b8bcc2", x, 184, 13);
      }
    },
  },
  {
    name: "ship",
    shows: ["ship", "ships", "boat", "boats"],
    draw(draw) {
      sky(draw, "#8fb6dc", "#d5e4ee");
      box(draw, "#2f5f8f", 0, 170, SIDE, 86);
      shape(draw, "#23364c", [14, 142], [244, 138], [222, 190], [34, 190]);
      shape(draw, "#8f2a2a", [30, 180], [226, 180], [222, 190], [34, 190]);
      box(draw, "#eceff1", 58, 112, 138, 30);
      box(draw, "#dfe4e8", 78, 88, 92, 26);
      for (let x = 68; x < 188; x += 16) box(draw, "#34495e", x, 122, 8, 8);
      for (let x = 86; x < 160; x += 16) box(draw, "#34495e", x, 96, 8, 8);
      box(draw, "#c0392b", 108, 54, 26, 36);
      box(draw, "#20262c", 108, 54, 26, 9);
      box(draw, "#55606a", 182, 60, 4, 54);
      for (let x = 0; x < SIDE; x += 32) box(draw, "#4b7aa8", x, 204 + (x % 64) / 4, 20, 3);
    },
  },
  {
    name: "plane",
    shows: ["plane", "planes", "airplane", "airplanes", "aeroplane"],
    draw(draw) {
      sky(draw, "#5a8ad8", "#9bbcd8");
      shape(draw, "#d3d7df", [72, 56], [98, 56], [150, 110], [118, 122]);
      round(draw, "#e9edf3", 124, 121, 101, 17);
      shape(draw, "#a8262a", [16, 64], [34, 64], [65, 111], [32, 121]);
      shape(draw, "#bcc1cc", [104, 120], [162, 120], [88, 193], [64, 193]);
      for (let x = 80; x < 196; x += 16) box(draw, "#33445f", x, 112, 6, 7);
    },
  },
];

function drawing({ draw }) {
  const canvas = element("canvas", { width: SIDE, height: SIDE });
  draw(canvas.getContext("2d"));
  return canvas;
}

/** A button for each sample of which a class is known; `add` gets its file when it is pressed. */
export function sampleButtons(classes, add) {
  const known = new Set(classes.map((label) => label.toLowerCase()));
  return SAMPLES.filter(({ shows }) => shows.some((label) => known.has(label))).map((sample) => {
    const canvas = drawing(sample);
    const button = element("button", { type: "button" }, canvas, element("span", {}, `A drawn ${sample.name}`));
    button.addEventListener("click", () => canvas.toBlob((blob) => {
      add([{ file: new File([blob], `${sample.name}.png`, { type: "image/png" }), name: `${sample.name}.png` }]);
    }));
    return element("li", {}, button);
  });
}
