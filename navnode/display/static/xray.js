// One X-ray, with the tools projected onto it.
import { element, setAttribute, setClass, setText } from "./dom.js";
import { listen } from "./gestures.js";
import { lineOf } from "./lookahead.js";
import * as marks from "./marks.js";
import { shownPlans } from "./plans.js";
import { say } from "./texts.js";
import { project } from "./vectors.js";

const DECODE_MS = 1000; // No picture that is overtaken by more than this is shown.
const KEPT_MS = 250;
const REMEMBERED = 32; // Descriptions of pictures that may still be decoded.
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
    this.described = new Map(); // By timestamp.
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

  // What the picture that is there shows, which may not be the newest yet: decoding takes time. Never is a picture shown
  // under the description of another one.
  decoded(newest) {
    this.described.delete(newest.timestamp_ns);
    this.described.set(newest.timestamp_ns, newest);
    if (this.described.size > REMEMBERED) this.described.delete(this.described.keys().next().value);
    const own = this.picture && this.described.get(this.timestamp);
    if (!own || own === newest) return own;
    const later_s = Number(BigInt(newest.timestamp_ns) - BigInt(own.timestamp_ns)) / 1e9;
    if (!(later_s >= 0 && 1000 * later_s < DECODE_MS)) return null;
    return { ...own, name: newest.name, letters: own.letters, live: newest.live, age_s: newest.age_s + later_s };
  }

  draw(view, scene, slot) {
    const { canvas } = this;
    setAttribute(canvas, "aria-label", say("xray", slot + 1));
    const newest = view;
    view = newest && this.decoded(newest);
    // At another place of the C-arm, what was drawn stays for a moment.
    if (view) this.agreed = performance.now();
    else if (newest && this.picture && !scene.silent && performance.now() - this.agreed < KEPT_MS) return;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!view) {
      setText(this.name, say(newest ? "loadingPicture" : "waiting"));
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
      const ends = [plan.entry_mm, plan.target_mm].map((end) => project(view.pixels_from_volume, end));
      if (ends.every(Boolean)) marks.plan(pen, ends.map(place), plan.active);
    }
    for (const tool of scene.tools) {
      if (!tool.tip_mm) continue;
      const [back, tip, ahead] = lineOf(tool).map((point) => project(view.pixels_from_volume, point));
      if (back && tip) marks.tool(pen, [place(back), place(tip), ahead && place(ahead)], tool.validity.status, view.live);
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
