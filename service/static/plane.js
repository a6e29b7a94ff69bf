const MOST_ZOOM = 400;
const CLICK_PX = 4;
const STEP_PX = 60;

/** A plane that is moved and zoomed by pointers, wheel and keyboard; it says what is asked for, and draws nothing. */
export class Plane {
  /** `told` has moved(), hover(point, event), click(point), lasso(points), done(points). */
  constructor(canvas, told) {
    this.canvas = canvas;
    this.told = told;
    this.bounds = { left: -1, right: 1, bottom: -1, top: 1 };
    this.isLasso = false;
    this.pointers = new Map();
    this.path = null;
    this.x = 0;
    this.y = 0;
    this.zoom = 1;
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "wheel", "keydown"]) {
      canvas.addEventListener(kind, (event) => this[`_${kind}`](event), { passive: false });
    }
  }

  get width() { return Math.max(1, this.canvas.clientWidth); }

  get height() { return Math.max(1, this.canvas.clientHeight); }

  /** Pixels of a unit where all of it is seen. */
  get whole() {
    const { left, right, bottom, top } = this.bounds;
    return 0.92 * Math.min(this.width / Math.max(right - left, 1e-9), this.height / Math.max(top - bottom, 1e-9));
  }

  get scale() { return this.whole * this.zoom; }

  /** Show all of it. */
  reset() {
    const { left, right, bottom, top } = this.bounds;
    this.x = (left + right) / 2;
    this.y = (bottom + top) / 2;
    this.zoom = 1;
    this.told.moved();
  }

  at(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return this.toPlane(event.clientX - left, event.clientY - top);
  }

  toPlane(px, py) {
    return [this.x + (px - this.width / 2) / this.scale, this.y - (py - this.height / 2) / this.scale];
  }

  /** Zoom about a place that stays where it is; its middle, if none is given. */
  zoomBy(factor, [x, y] = [this.x, this.y]) {
    const zoom = Math.min(MOST_ZOOM, Math.max(0.5, this.zoom * factor));
    const by = this.zoom / zoom;
    this.x = x + (this.x - x) * by;
    this.y = y + (this.y - y) * by;
    this.zoom = zoom;
    this.told.moved();
  }

  moveBy(px, py) {
    this.x -= px / this.scale;
    this.y += py / this.scale;
    this.told.moved();
  }

  _pointerdown(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.start = event;
    this.path = (this.isLasso || event.shiftKey) && this.pointers.size === 1 ? [this.at(event)] : null;
  }

  _pointermove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.told.hover(this.at(event), event);
      return;
    }
    const others = [...this.pointers.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (others.length) {
      const [other] = others;
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      this.path = null;
      this.moveBy((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
      this.zoomBy(apart(event) / Math.max(apart(before), 1));
    } else if (this.path) {
      this.path.push(this.at(event));
      this.told.lasso(this.path);
    } else if (this.isDragged(event)) {
      this.moveBy(event.clientX - before.clientX, event.clientY - before.clientY);
    }
  }

  isDragged(event) {
    this.hasMoved ||= Math.hypot(event.clientX - this.start.clientX, event.clientY - this.start.clientY) > CLICK_PX;
    return this.hasMoved;
  }

  _pointerup(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.path && this.path.length > 2) this.told.done(this.path);
    else if (!this.isDragged(event) && !this.pointers.size) this.told.click(this.at(event), event);
    this.path = null;
    this.hasMoved = this.pointers.size > 0;
  }

  _pointercancel(event) {
    this.pointers.delete(event.pointerId);
    this.path = null;
    this.hasMoved = false;
    this.told.done([]);
  }

  _pointerleave() { if (!this.pointers.size) this.told.hover(null); }

  _wheel(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) / 300), this.at(event));
  }

  _keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [STEP_PX, 0], ArrowRight: [-STEP_PX, 0], ArrowUp: [0, STEP_PX], ArrowDown: [0, -STEP_PX] };
    if (moves[event.key]) this.moveBy(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
    else if (event.key === "-") this.zoomBy(1 / 1.4);
    else if (event.key === "0") this.reset();
    else if (event.key === "Enter") this.told.click([this.x, this.y], event);
    else return;
    event.preventDefault();
  }
}
