// One X-ray, with the tools projected onto it.
import { element, setClass, setText } from "./dom.js";
import { lineOf } from "./lookahead.js";
import * as marks from "./marks.js";
import { shownPlans } from "./plans.js";
import { say } from "./texts.js";
import { project } from "./vectors.js";

const DECODE_MS = 250;

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
    const [w, h] = view.size_px;
    const [wide, high] = [width / ratio, height / ratio];
    const scale = Math.min(wide / w, high / h);
    const left = (wide - w * scale) / 2, top = (high - h * scale) / 2;
    pen.scale(ratio, ratio);
    pen.drawImage(this.picture, left, top, w * scale, h * scale);
    if (!view.live) veil(pen, left, top, w * scale, h * scale);
    pen.beginPath();
    pen.rect(left, top, w * scale, h * scale);
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
    if (view.letters) marks.letters(pen, [left, top, w * scale, h * scale], view.letters, 46);
    this.describe(view, scene);
  }

  describe(view, scene) {
    const kind = view.live ? "live" : "held";
    setClass(this.figure, `view ${kind}`);
    setText(this.name, view.name);
    setClass(this.kind, `kind ${kind}`);
    setText(this.kind, view.live ? `● ${scene.state?.replay ? "REPLAY" : say("live")}` : `❚❚ ${say("held")}`);
    setText(this.age, view.age_s < 1 ? `${Math.round(view.age_s * 1000)} ms` : say("old", view.age_s.toFixed(1)));
    const lost = scene.tools.some(({ name, validity }) => name === scene.state?.active_tool && validity.status === "INVALID");
    setText(this.why, lost ? say("notShown", scene.state.active_tool) : "");
  }
}

// What an X-ray that is not live shows is past: it is dimmed and tinted, so that its shadows recede.
function veil(pen, ...box) {
  pen.fillStyle = "rgba(40,28,72,.45)";
  pen.fillRect(...box);
}
