const VERTEX = `#version 300 es
in vec2 place;
in vec4 colour;
in float mark;
uniform vec2 middle;
uniform vec2 scale;
uniform float size;
out vec4 shade;
flat out float form;
void main() {
  gl_Position = vec4((place - middle) * scale, 0.0, 1.0);
  gl_PointSize = size * (mark > 0.5 ? 1.9 : 1.0);
  shade = colour;
  form = mark;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 shade;
flat in float form;
uniform vec4 ink;
uniform float size;
out vec4 drawn;
void main() {
  vec2 at = abs(gl_PointCoord * 2.0 - 1.0);
  float far = form > 0.5 && form < 1.5 ? max(at.x, at.y) * 1.15 : length(at);
  float edge = 2.0 / size;
  float alpha = shade.a * (1.0 - smoothstep(1.0 - edge, 1.0, far));
  if (alpha <= 0.0) discard;
  float rim = form < 0.5 ? 0.0 : form < 1.5 ? 0.82 : 0.62;
  vec3 tint = rim > 0.0 && far > rim ? ink.rgb : shade.rgb;
  drawn = vec4(tint * alpha, alpha);
}`;

/** What a point is drawn as, beside its colour: squares with a rim were taught, discs with a broad rim are suspects. */
export const MARKS = { none: 0, taught: 1, suspect: 2 };

/** Points on a canvas, drawn at once by WebGL 2, however many; null where the browser has none. */
export class GlPoints {
  /** All of them are drawn. */
  share = 1;

  static on(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
    return gl ? new GlPoints(canvas, gl) : null;
  }

  constructor(canvas, gl) {
    this.canvas = canvas;
    this.gl = gl;
    this.looks = null;
    this.#prepare();
    // A driver that is started anew has forgotten all of it.
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      this.#prepare();
      if (this.looks) this.set(this.looks);
    });
  }

  #prepare() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    this.at = Object.fromEntries(["middle", "scale", "size", "ink"].map((name) => [name, gl.getUniformLocation(program, name)]));
    this.buffers = {};
    for (const [name, size, type] of [["place", 2, gl.FLOAT], ["colour", 4, gl.UNSIGNED_BYTE], ["mark", 1, gl.UNSIGNED_BYTE]]) {
      const buffer = gl.createBuffer();
      const place = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, name === "colour", 0, 0);
      this.buffers[name] = buffer;
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  /** Positions (2 a point), colours (4 bytes a point), marks (a byte each), and the order in which they are drawn. */
  set(looks) {
    const { gl } = this;
    this.looks = looks;
    for (const [name, values] of [["place", looks.positions], ["colour", looks.colours], ["mark", looks.marks]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    }
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, looks.order, gl.STATIC_DRAW);
  }

  /** `scale` is in pixels of the page for a unit, `ratio` the screen's for one of those. */
  draw({ x, y, scale, width, height, ratio, size, ink }) {
    const { gl, canvas } = this;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.looks) return;
    gl.uniform2f(this.at.middle, x, y);
    gl.uniform2f(this.at.scale, (2 * scale) / width, (2 * scale) / height);
    gl.uniform1f(this.at.size, size * ratio);
    gl.uniform4f(this.at.ink, ...ink.map((part) => part / 255), 1);
    gl.drawElements(gl.POINTS, this.looks.order.length, gl.UNSIGNED_INT, 0);
  }
}

const SAMPLE = 5000;

/** The same by what every browser has: slowly, and so no more than some thousand of the points. */
export class PlainPoints {
  static on(canvas) { return new PlainPoints(canvas); }

  constructor(canvas) {
    this.canvas = canvas;
    this.brush = canvas.getContext("2d");
    this.looks = null;
  }

  get share() { return this.looks ? Math.min(1, SAMPLE / this.looks.order.length) : 1; }

  set(looks) {
    this.looks = looks;
    const step = Math.max(1, looks.order.length / SAMPLE);
    // Marked points come last, and all of them are shown as far as there is room.
    this.sample = [];
    for (let at = looks.order.length - 1; at >= 0; at -= step) this.sample.push(looks.order[Math.floor(at)]);
    this.sample.reverse();
  }

  draw({ x, y, scale, width, height, ratio, size, ink }) {
    const { canvas, brush } = this;
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    brush.scale(ratio, ratio);
    if (!this.looks) return;
    const { positions, colours, marks } = this.looks;
    for (const i of this.sample) {
      const left = (positions[2 * i] - x) * scale + width / 2;
      const top = height / 2 - (positions[2 * i + 1] - y) * scale;
      if (left < -size || top < -size || left > width + size || top > height + size) continue;
      const half = (size * (marks[i] ? 1.9 : 1)) / 2;
      const [red, green, blue, alpha] = colours.subarray(4 * i, 4 * i + 4);
      brush.fillStyle = `rgba(${red},${green},${blue},${alpha / 255})`;
      brush.beginPath();
      if (marks[i] === MARKS.taught) brush.rect(left - half, top - half, 2 * half, 2 * half);
      else brush.arc(left, top, half, 0, 7);
      brush.fill();
      if (marks[i]) {
        brush.strokeStyle = `rgb(${ink})`;
        brush.lineWidth = marks[i] === MARKS.suspect ? 2.5 : 1.2;
        brush.stroke();
      }
    }
  }
}
