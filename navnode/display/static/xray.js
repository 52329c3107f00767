// One X-ray, with the tools projected onto it.
const DECODE_MS = 250;
const WAITING = "Waiting until the C-arm stands still";
const COLOURS = { VALID: "#ffd200", DEGRADED: "#f2b134" };

export class XrayView {
  constructor(figure) {
    this.canvas = figure.querySelector("canvas");
    this.caption = figure.querySelector("figcaption");
    this.why = figure.querySelector(".why");
    this.picture = null;
    this.asked = this.shown = 0;
    this.caption.textContent = WAITING;
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
      this.caption.textContent = WAITING;
      this.why.textContent = "";
      return;
    }
    const [w, h] = view.size_px;
    const scale = Math.min(width / w, height / h);
    const left = (width - w * scale) / 2, top = (height - h * scale) / 2;
    pen.globalAlpha = view.live ? 1 : 0.8;
    pen.drawImage(this.picture, left, top, w * scale, h * scale);
    pen.globalAlpha = 1;
    pen.beginPath();
    pen.rect(left, top, w * scale, h * scale);
    pen.save();
    pen.clip();
    for (const tool of scene.tools) {
      const points = tool.pixels?.[slot];
      // Pixel centres are at integers; on the canvas, pixel 0 extends from 0 to 1.
      if (points) drawTool(pen, points.map(([u, v]) => [left + (u + 0.5) * scale, top + (v + 0.5) * scale]), COLOURS[tool.validity.status], ratio);
    }
    pen.restore();
    this.describe(view, scene);
  }

  describe(view, scene) {
    const kind = view.live ? "live" : "held";
    const state = view.live && scene.state?.replay ? "REPLAY" : kind.toUpperCase();
    this.caption.innerHTML = `<b></b><span class="${kind}">${state}</span><span class="age"></span>`;
    this.caption.firstChild.textContent = view.name;
    this.caption.lastChild.textContent = view.age_s < 1 ? `${Math.round(view.age_s * 1000)} ms` : `${view.age_s.toFixed(1)} s old`;
    const lost = scene.tools.filter((tool) => tool.validity.status === "INVALID");
    this.why.textContent = lost.map((tool) => `${tool.name} not shown: ${tool.validity.reason}`).join(" · ");
  }
}

function drawTool(pen, [back, tip, ahead], colour, ratio) {
  const line = (a, b) => {
    pen.beginPath();
    pen.moveTo(...a);
    pen.lineTo(...b);
    pen.stroke();
  };
  for (const [style, width] of [["rgba(0,0,0,.7)", 5], [colour, 2.2]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width * ratio;
    pen.setLineDash([]);
    line(back, tip);
    pen.lineWidth = width * 0.7 * ratio;
    pen.setLineDash([7 * ratio, 6 * ratio]);
    line(tip, ahead);
    pen.setLineDash([]);
    pen.beginPath();
    pen.arc(...tip, 5 * ratio, 0, 2 * Math.PI);
    pen.stroke();
  }
}
