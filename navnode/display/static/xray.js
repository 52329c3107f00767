// One X-ray, with the tools projected onto it.
import { element, setAttribute, setClass, setText } from "./dom.js";
import { listen } from "./gestures.js";
import { lineOf } from "./lookahead.js";
import * as marks from "./marks.js";
import { shownPlans } from "./plans.js";
import { say } from "./texts.js";
import { project } from "./vectors.js";

const DECODE_MS = 250;
const NEAREST = 16;
const CAPTION_PX = 46; // Below which the letter at the top stands.

export class XrayView {
  constructor(figure) {
    this.figure = figure;
    this.canvas = figure.querySelector("canvas");
    const caption = figure.querySelector("figcaption");
    [this.name, this.kind, this.age] = ["", "kind", "age"].map((name) => element("span", name));
    caption.append(this.name, this.kind, this.age);
    this.why = figure.querySelector(".why");
    this.picture = null;
    this.asked = this.shown = 0;
    this.size_px = [1, 1];
    this.reset();
    listen(this.canvas, {
      zoom: (factor, at) => this.zoom(factor, at),
      shift: (dx, dy) => this.shift(dx, dy),
      reset: () => this.reset(),
    });
  }

  reset() {
    this.nearer = 1;
    this.middle = [0.5, 0.5]; // Where of the picture the middle of the pane is, in shares of its width and height.
  }

  // CSS px of the picture's left, top, width and height in the pane.
  get box() {
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    const [w, h] = this.size_px;
    const scale = this.nearer * Math.min(wide / w, high / h);
    return [wide / 2 - this.middle[0] * w * scale, high / 2 - this.middle[1] * h * scale, w * scale, h * scale];
  }

  zoom(factor, [x, y]) {
    const [left, top, w, h] = this.box;
    const under = [(x - left) / w, (y - top) / h];
    this.nearer = Math.max(1, Math.min(NEAREST, this.nearer / factor));
    const [, , wide, high] = this.box;
    this.look([under[0] - (x - this.canvas.clientWidth / 2) / wide, under[1] - (y - this.canvas.clientHeight / 2) / high]);
  }

  shift(dx, dy) {
    const [, , w, h] = this.box;
    this.look([this.middle[0] - dx / w, this.middle[1] - dy / h]);
  }

  // All of it is seen as long as it is no nearer than that; its middle does not leave the pane.
  look(middle) {
    this.middle = this.nearer === 1 ? [0.5, 0.5] : middle.map((share) => Math.max(0, Math.min(1, share)));
  }

  // Decoding takes time: a picture is dropped if a newer one overtook it.
  async show(blob, timestamp) {
    const number = ++this.asked;
    const picture = await createImageBitmap(blob);
    if (number < this.shown) return picture.close();
    this.picture?.close();
    Object.assign(this, { picture, timestamp, shown: number });
  }

  draw(view, scene, slot) {
    const { canvas } = this;
    setAttribute(canvas, "aria-label", say("xray", slot + 1));
    // While a picture is being decoded, the last one and its tools stay for a moment.
    if (view && this.timestamp === view.timestamp_ns) this.agreed = performance.now();
    else if (view && this.picture && !scene.silent && performance.now() - this.agreed < DECODE_MS) return;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    // Do not show a picture under the description of another one.
    if (!view || !this.picture || this.timestamp !== view.timestamp_ns) {
      setText(this.name, say("waiting"));
      for (const node of [this.kind, this.age, this.why]) setText(node, "");
      setClass(this.figure, "view");
      return;
    }
    this.size_px = view.size_px;
    const [left, top, wide, high] = this.box, scale = wide / view.size_px[0];
    pen.scale(ratio, ratio);
    pen.drawImage(this.picture, left, top, wide, high);
    if (!view.live) veil(pen, left, top, wide, high);
    pen.beginPath();
    pen.rect(left, top, wide, high);
    pen.save();
    pen.clip();
    // Pixel centres are at integers; on the canvas, pixel 0 extends from 0 to 1.
    const place = ([u, v]) => [left + (u + 0.5) * scale, top + (v + 0.5) * scale];
    for (const plan of shownPlans(scene)) {
      if (plan.pixels?.[slot]) marks.plan(pen, plan.pixels[slot].map(place), plan.active);
    }
    for (const tool of scene.tools) {
      const points = tool.pixels?.[slot];
      if (!points) continue;
      const ahead = project(view.pixels_from_volume, lineOf(tool)[2]);
      const ends = [...points.slice(0, 2).map(place), ahead && place(ahead)];
      marks.tool(pen, ends, marks.COLOURS[tool.validity.status], view.live);
    }
    pen.restore();
    const seen = [Math.max(0, left), Math.max(0, top)];
    seen.push(Math.min(canvas.clientWidth, left + wide) - seen[0], Math.min(canvas.clientHeight, top + high) - seen[1]);
    if (view.letters) marks.letters(pen, seen, view.letters, CAPTION_PX);
    if (this.nearer > 1) marks.text(pen, `${this.nearer.toFixed(1)} ×`, [12, canvas.clientHeight - 16], { size: 15 });
    this.describe(view, scene);
  }

  describe(view, scene) {
    const kind = view.live ? "live" : "held";
    setClass(this.figure, `view ${kind}`);
    setText(this.name, nameOf(view));
    setClass(this.kind, `kind ${kind}`);
    setText(this.kind, view.live ? `● ${say(scene.state?.replay ? "replay" : "live")}` : `❚❚ ${say("held")}`);
    setText(this.age, view.age_s < 1 ? `${Math.round(view.age_s * 1000)} ms` : say("old", view.age_s.toFixed(1)));
    const lost = scene.tools.some(({ name, validity }) => name === scene.state?.active_tool && validity.status === "INVALID");
    setText(this.why, lost ? say("notShown", scene.state.active_tool) : "");
  }
}

// AP, PA, LAO and RAO are the same in all languages.
function nameOf({ name, slot }) {
  if (/^X-ray \d$/.test(name)) return say("xray", slot + 1);
  return name.replace("lateral", say("lateral_view")).replace(/cranial|caudal/, (word) => say(word));
}

// What an X-ray that is not live shows is past: it is dimmed and tinted, so that its shadows recede.
function veil(pen, ...box) {
  pen.fillStyle = "rgba(40,28,72,.45)";
  pen.fillRect(...box);
}
