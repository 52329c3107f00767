// One slice: where its picture lies in the volume, and what wheel, drag, pinch and keys do to it, and to no other.
import { dot, plus } from "./vectors.js";

const SPAN_MM = 220, LEAST_MM = 15, MOST_MM = 900;
const CLICK_PX = 4;
const KEYS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
};

export class Slice {
  // `right`, `up`: unit vectors, RAS. `on`: click(at_mm, slice), through(mm, slice), level(dx, dy), all in mm or px.
  constructor(pane, name, right, up, letters, on) {
    Object.assign(this, { pane, name, right, up, letters, on });
    this.through = [right[1] * up[2] - right[2] * up[1], right[2] * up[0] - right[0] * up[2], right[0] * up[1] - right[1] * up[0]];
    this.center = [0, 0, 0];
    this.fingers = new Map();
    this.reset();
    this.listen();
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

  listen() {
    const { pane } = this;
    const place = (event) => {
      const box = pane.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey) this.zoom(Math.exp(event.deltaY * 0.002), place(event));
      else this.on.through(-Math.sign(event.deltaY) * Math.max(1, Math.round(Math.abs(event.deltaY) / 100)), this);
    }, { passive: false });
    pane.addEventListener("contextmenu", (event) => event.preventDefault());
    pane.addEventListener("pointerdown", (event) => {
      if (event.target !== pane) return;
      pane.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, { began: place(event), now: place(event), button: event.button });
      this.moved = this.fingers.size > 1;
    });
    pane.addEventListener("pointermove", (event) => {
      const finger = this.fingers.get(event.pointerId);
      if (finger) this.drag(finger, place(event));
    });
    for (const kind of ["pointerup", "pointercancel"]) pane.addEventListener(kind, (event) => {
      const finger = this.fingers.get(event.pointerId);
      this.fingers.delete(event.pointerId);
      if (kind === "pointerup" && finger?.button === 0 && !this.moved) this.on.click(this.at(place(event)), this);
    });
    pane.addEventListener("keydown", (event) => this.press(event));
  }

  drag(finger, now) {
    const [dx, dy] = [now[0] - finger.now[0], now[1] - finger.now[1]];
    if (Math.hypot(now[0] - finger.began[0], now[1] - finger.began[1]) > CLICK_PX) this.moved = true;
    const other = [...this.fingers.values()].find((each) => each !== finger);
    if (other) {
      const apart = (at) => Math.max(10, Math.hypot(at[0] - other.now[0], at[1] - other.now[1]));
      const middle = [(now[0] + other.now[0]) / 2, (now[1] + other.now[1]) / 2];
      this.zoom(apart(finger.now) / apart(now), middle);
      this.shift(dx / 2, dy / 2);
    } else if (finger.button === 2) this.on.level(dx, dy);
    else if (this.moved) this.shift(dx, dy);
    finger.now = now;
  }

  shift(dx, dy) {
    this.pan = [this.pan[0] - dx * this.mmPerPx, this.pan[1] + dy * this.mmPerPx];
  }

  press(event) {
    const middle = [this.pane.clientWidth / 2, this.pane.clientHeight / 2];
    const arrow = KEYS[event.key];
    if (arrow) this.on.move(plus(plus(this.center, this.right, arrow[0]), this.up, arrow[1]));
    else if (event.key === "PageUp" || event.key === "PageDown") this.on.through(event.key === "PageUp" ? 1 : -1, this);
    else if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 0.9 : 1 / 0.9, middle);
    else if (event.key === "0") this.reset();
    else if (event.key === "Enter" && event.target === this.pane) this.on.click(this.center, this);
    else return;
    event.preventDefault();
  }
}
