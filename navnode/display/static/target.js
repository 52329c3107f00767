// The view along a plan: its line is the centre, the tool's tip and the far end of its axis are two marks. Both on the
// centre: the tool is on the line.
import * as marks from "./marks.js";
import { cross, dot, minus, plus, unit } from "./vectors.js";

const RADII_MM = [10, 25, 60];
const RINGS_MM = { 10: [2, 5, 10], 25: [5, 10, 25], 60: [10, 25, 60] };
const LETTERS = [["L", "R"], ["P", "A"], ["I", "S"]]; // of the negative and the positive direction of an axis
let radius = RADII_MM[1];

// Axes of the view from entry to target: across and up. Up is the patient's head, or their front for plans along the body.
function axes({ entry_mm, target_mm }) {
  const along = unit(minus(target_mm, entry_mm));
  const reference = Math.abs(along[2]) < 0.9 ? [0, 0, 1] : [0, 1, 0];
  const up = unit(plus(reference, along, -dot(reference, along)));
  return { along, up, across: cross(along, up) };
}

// [across, up] mm from the plan's line.
export function offLine(plan, point) {
  const { across, up } = axes(plan), off = minus(point, plan.entry_mm);
  return [dot(off, across), dot(off, up)];
}

function letterOf(direction) {
  const axis = [0, 1, 2].reduce((most, each) => (Math.abs(direction[each]) > Math.abs(direction[most]) ? each : most), 0);
  return LETTERS[axis][direction[axis] < 0 ? 0 : 1];
}

export function drawTarget(canvas, plan, tool, oriented) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  const [width, height] = [Math.round(w * ratio), Math.round(h * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, w, h);
  if (!plan || !w) return;
  const [tip, end] = tool ? [offLine(plan, tool.tip_mm), offLine(plan, tool.back_mm)] : [null, null];
  if (tip) zoomFor(Math.max(Math.hypot(...tip), Math.hypot(...end)));
  const middle = [w / 2, h / 2], room = Math.min(w, h) / 2 - 20, scale = room / radius;
  for (const mm of RINGS_MM[radius]) {
    pen.beginPath();
    pen.arc(...middle, mm * scale, 0, 2 * Math.PI);
    pen.strokeStyle = "#5b6b78";
    pen.lineWidth = 1.2;
    pen.stroke();
    marks.text(pen, `${mm}`, [middle[0] + mm * scale * 0.72 + 2, middle[1] + mm * scale * 0.72], { size: 13, colour: "#b9c7d2" });
  }
  marks.cross(pen, middle, 5, marks.PLAN);
  if (oriented) {
    const { across, up } = axes(plan);
    const around = [across.map((x) => -x), across, up, up.map((x) => -x)].map(letterOf);
    marks.letters(pen, [0, 0, w, h], around, 12);
  }
  if (!tip) return;
  const colour = marks.COLOURS[tool.validity.status];
  const at = (off) => {
    const far = Math.hypot(...off), inside = far > radius ? radius / far : 1;
    return [middle[0] + off[0] * inside * scale, middle[1] - off[1] * inside * scale];
  };
  const dash = tool.validity.status === "VALID" ? [] : [5, 4];
  marks.line(pen, at(tip), at(end), colour, 1.4, dash);
  marks.ring(pen, at(end), 9, colour, 2.4);
  pen.beginPath();
  pen.arc(...at(tip), 6, 0, 2 * Math.PI);
  pen.fillStyle = colour;
  pen.fill();
  pen.strokeStyle = "#000";
  pen.stroke();
}

// Nearer when all is well within, farther when something leaves: with a gap between, so that it does not flicker.
function zoomFor(far) {
  const place = RADII_MM.indexOf(radius);
  if (far > radius && place + 1 < RADII_MM.length) radius = RADII_MM[place + 1];
  else if (place && far < 0.8 * RADII_MM[place - 1]) radius = RADII_MM[place - 1];
}
