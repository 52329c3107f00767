// One X-ray, with the tools projected onto it.
import { element, setClass, setText } from "./dom.js";
import { say } from "./texts.js";

const DECODE_MS = 250;
const COLOURS = { VALID: "#ffd200", DEGRADED: "#f2b134" };

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
    const scale = Math.min(width / w, height / h);
    const left = (width - w * scale) / 2, top = (height - h * scale) / 2;
    pen.drawImage(this.picture, left, top, w * scale, h * scale);
    if (!view.live) veil(pen, left, top, w * scale, h * scale);
    pen.beginPath();
    pen.rect(left, top, w * scale, h * scale);
    pen.save();
    pen.clip();
    for (const tool of scene.tools) {
      const points = tool.pixels?.[slot];
      // Pixel centres are at integers; on the canvas, pixel 0 extends from 0 to 1.
      if (points) drawTool(pen, points.map(([u, v]) => [left + (u + 0.5) * scale, top + (v + 0.5) * scale]), COLOURS[tool.validity.status], ratio, view.live);
    }
    pen.restore();
    this.describe(view, scene);
  }

  describe(view, scene) {
    const kind = view.live ? "live" : "held";
    setClass(this.figure, `view ${kind}`);
    setText(this.name, view.name);
    setClass(this.kind, `kind ${kind}`);
    setText(this.kind, view.live ? `● ${scene.state?.replay ? "REPLAY" : say("live")}` : `❚❚ ${say("held")}`);
    setText(this.age, view.age_s < 1 ? `${Math.round(view.age_s * 1000)} ms` : say("old", view.age_s.toFixed(1)));
    const lost = scene.tools.filter((tool) => tool.validity.status === "INVALID");
    setText(this.why, lost.map((tool) => say("notShown", tool.name)).join(" · "));
  }
}

// What an X-ray that is not live shows is past: it is dimmed and tinted, so that its shadows recede.
function veil(pen, ...box) {
  pen.fillStyle = "rgba(40,28,72,.45)";
  pen.fillRect(...box);
}

// On a live X-ray a solid tool; on a held one thin and dashed, lest the old shadow and today's tool look like two drills.
function drawTool(pen, [back, tip, ahead], colour, ratio, live) {
  const line = (a, b, dash) => {
    pen.setLineDash(dash.map((length) => length * ratio));
    pen.beginPath();
    pen.moveTo(...a);
    pen.lineTo(...b);
    pen.stroke();
    pen.setLineDash([]);
  };
  for (const [style, width] of [["rgba(0,0,0,.7)", live ? 5 : 3], [colour, live ? 2.2 : 1.2]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width * ratio;
    line(back, tip, live ? [] : [4, 5]);
    pen.lineWidth = width * 0.7 * ratio;
    line(tip, ahead, live ? [7, 6] : [1, 5]);
    pen.beginPath();
    pen.arc(...tip, 5 * ratio, 0, 2 * Math.PI);
    pen.stroke();
  }
}
