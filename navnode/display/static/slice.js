// One slice: where its picture lies in the volume, and how that changes by wheel, drag, pinch and keys.
import { listen } from "./gestures.js";
import { dot, plus } from "./vectors.js";

const SPAN_MM = 220, LEAST_MM = 15, MOST_MM = 900;
const KEYS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
};

export class Slice {
  // `right`, `up`: unit vectors, RAS. `on`: click(at_mm, slice), twice(), through(mm, slice), level(dx, dy), all in mm or px.
  constructor(pane, name, right, up, letters, on) {
    Object.assign(this, { pane, name, right, up, letters, on });
    this.through = [right[1] * up[2] - right[2] * up[1], right[2] * up[0] - right[0] * up[2], right[0] * up[1] - right[1] * up[0]];
    this.center = [0, 0, 0];
    this.reset();
    listen(pane, {
      zoom: (factor, at) => this.zoom(factor, at),
      shift: (dx, dy) => this.shift(dx, dy),
      reset: () => this.reset(),
      through: (steps) => on.through(steps, this),
      level: on.level,
      click: (at) => on.click(this.at(at), this),
      twice: on.twice,
      press: (event) => this.press(event),
    });
  }

  reset() {
    this.span = SPAN_MM;
    this.pan = [0, 0];
  }

  get mmPerPx() {
    return this.span / Math.max(1, Math.min(this.pane.clientWidth, this.pane.clientHeight));
  }

  // The middle of the picture.
  get middle() {
    return plus(plus(this.center, this.right, this.pan[0]), this.up, this.pan[1]);
  }

  // The crosshair goes elsewhere; the picture stays, unless it follows.
  moveCenter(to, follows) {
    if (!follows) {
      const way = to.map((value, axis) => value - this.center[axis]);
      this.pan = [this.pan[0] - dot(way, this.right), this.pan[1] - dot(way, this.up)];
    }
    this.center = to;
  }

  // Place in the pane, px, of a point in the volume.
  flat(point) {
    const off = point.map((value, axis) => value - this.middle[axis]), scale = this.mmPerPx;
    return [this.pane.clientWidth / 2 + dot(off, this.right) / scale, this.pane.clientHeight / 2 - dot(off, this.up) / scale];
  }

  // The point in the volume at a place in the pane.
  at([x, y]) {
    const scale = this.mmPerPx;
    const across = plus(this.middle, this.right, (x - this.pane.clientWidth / 2) * scale);
    return plus(across, this.up, (this.pane.clientHeight / 2 - y) * scale);
  }

  // How far a point lies from the slice, mm.
  off(point) {
    return dot(point.map((value, axis) => value - this.center[axis]), this.through);
  }

  zoom(factor, [x, y]) {
    const before = this.at([x, y]);
    this.span = Math.max(LEAST_MM, Math.min(MOST_MM, this.span * factor));
    const way = this.at([x, y]).map((value, axis) => before[axis] - value);
    this.pan = [this.pan[0] + dot(way, this.right), this.pan[1] + dot(way, this.up)];
  }

  shift(dx, dy) {
    this.pan = [this.pan[0] - dx * this.mmPerPx, this.pan[1] + dy * this.mmPerPx];
  }

  press(event) {
    const arrow = KEYS[event.key];
    if (arrow) this.on.move(plus(plus(this.center, this.right, arrow[0]), this.up, arrow[1]));
    else if (event.key === "PageUp" || event.key === "PageDown") this.on.through(event.key === "PageUp" ? 1 : -1, this);
    else if (event.key === "Enter" && event.target === this.pane) this.on.click(this.center, this);
    else return false;
    return true;
  }
}
