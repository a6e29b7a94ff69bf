import { call } from "./api.js";

const TAUGHT = 1;
const SUSPECT = 4;
const BYTES = 21;

/** The points of a map, as the server lays them out, and who is where. */
export class PointData {
  constructor(buffer, { generation, total }) {
    const count = buffer.byteLength / BYTES;
    this.count = count;
    this.total = total;
    this.generation = generation;
    this.ids = new Float64Array(buffer, 0, count);
    this.positions = new Float32Array(buffer, 8 * count, 2 * count);
    this.classes = new Int32Array(buffer, 16 * count, count);
    this.flags = new Uint8Array(buffer, 20 * count, count);
    this.bounds = this.#bounds();
    this.#sort();
  }

  isTaught(i) { return (this.flags[i] & TAUGHT) > 0; }

  isSuspect(i) { return (this.flags[i] & SUSPECT) > 0; }

  /** The point nearest to a place within a distance; -1 where there is none. `isShown` says which count. */
  nearest(x, y, within, isShown) {
    const { positions, cell, columns, rows, starts, members, bounds } = this;
    const column = (at) => Math.min(columns - 1, Math.max(0, Math.floor((at - bounds.left) / cell)));
    const row = (at) => Math.min(rows - 1, Math.max(0, Math.floor((at - bounds.bottom) / cell)));
    let best = -1;
    let least = within * within;
    for (let r = row(y - within); r <= row(y + within); r += 1) {
      for (let c = column(x - within); c <= column(x + within); c += 1) {
        for (let at = starts[r * columns + c]; at < starts[r * columns + c + 1]; at += 1) {
          const i = members[at];
          const far = (positions[2 * i] - x) ** 2 + (positions[2 * i + 1] - y) ** 2;
          if (far < least && isShown(i)) {
            least = far;
            best = i;
          }
        }
      }
    }
    return best;
  }

  /** The points inside of a polygon [[x, y], …]. */
  inside(polygon, isShown) {
    const { positions } = this;
    const xs = polygon.map(([x]) => x);
    const ys = polygon.map(([, y]) => y);
    const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const found = [];
    for (let i = 0; i < this.count; i += 1) {
      const x = positions[2 * i];
      const y = positions[2 * i + 1];
      if (x < left || x > right || y < bottom || y > top || !isShown(i)) continue;
      let isIn = false;
      for (let a = 0, b = xs.length - 1; a < xs.length; b = a, a += 1) {
        if (ys[a] > y !== ys[b] > y && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a]) isIn = !isIn;
      }
      if (isIn) found.push(i);
    }
    return found;
  }

  #bounds() {
    let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < this.positions.length; i += 2) {
      const x = this.positions[i];
      const y = this.positions[i + 1];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < bottom) bottom = y;
      if (y > top) top = y;
    }
    return this.count ? { left, right, bottom, top } : { left: -1, right: 1, bottom: -1, top: 1 };
  }

  /** Put the points into cells of some four each, so that the one below the pointer is found at once. */
  #sort() {
    const { bounds: { left, right, bottom, top }, count, positions } = this;
    const wide = Math.max(right - left, 1e-9);
    const high = Math.max(top - bottom, 1e-9);
    this.cell = Math.max(Math.sqrt((wide * high * 4) / Math.max(count, 1)), wide / 2000, high / 2000);
    this.columns = Math.floor(wide / this.cell) + 1;
    this.rows = Math.floor(high / this.cell) + 1;
    const cells = new Int32Array(count);
    this.starts = new Int32Array(this.columns * this.rows + 1);
    for (let i = 0; i < count; i += 1) {
      const column = Math.min(this.columns - 1, Math.floor((positions[2 * i] - left) / this.cell));
      const row = Math.min(this.rows - 1, Math.floor((positions[2 * i + 1] - bottom) / this.cell));
      cells[i] = row * this.columns + column;
      this.starts[cells[i] + 1] += 1;
    }
    for (let at = 1; at < this.starts.length; at += 1) this.starts[at] += this.starts[at - 1];
    const next = this.starts.slice();
    this.members = new Int32Array(count);
    for (let i = 0; i < count; i += 1) {
      this.members[next[cells[i]]] = i;
      next[cells[i]] += 1;
    }
  }
}

/** The server's map by a method. */
export async function loadPoints(method) {
  const response = await call("GET", `v1/admin/map?method=${method}`, { as: "response" });
  return new PointData(await response.arrayBuffer(), {
    generation: response.headers.get("X-Generation"), total: Number(response.headers.get("X-Total")),
  });
}

// Okabe and Ito's, which the colour-blind tell apart; then hues that lie far from those before.
const FIRST = [[230, 159, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167], [213, 94, 0], [86, 180, 233], [150, 120, 220], [150, 150, 40]];

/** A class's colour: red, green, blue. */
export function colourOf(place) {
  if (place < FIRST.length) return FIRST[place];
  const hue = (place * 137.508) % 360;
  const light = [0.5, 0.62, 0.42][place % 3];
  const part = (shift) => {
    const k = (shift + hue / 30) % 12;
    return Math.round(255 * (light - 0.6 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}
