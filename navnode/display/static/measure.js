// Distances between two points that are clicked on a slice, mm.
import * as marks from "./marks.js";
import { ask, stop } from "./pick.js";
import { minus } from "./vectors.js";

const button = document.getElementById("measure");
const IN_SLICE_MM = 1.5;
const MOST = 20;
let on = false;
let measured = [];

export const measuring = () => on;

function begin() {
  on = true;
  button.setAttribute("aria-pressed", true);
  ask(["measureFrom", "measureTo"], (points) => {
    on = false;
    button.setAttribute("aria-pressed", false);
    if (points) measured = [...measured, points.map(({ at_mm }) => at_mm)].slice(-MOST);
  });
}

button.addEventListener("click", () => (on ? stop() : begin()));
// A second click on the button, while nothing is asked, begins the next; Delete takes all away.
addEventListener("keydown", ({ key, target }) => {
  if (key === "Delete" && target.tagName !== "INPUT") measured = [];
});

// Where an end lies in this slice; dashed if the other one does not.
export function drawMeasured(pen, slice) {
  for (const [a, b] of measured) {
    const lie = [a, b].filter((end) => Math.abs(slice.off(end)) <= IN_SLICE_MM);
    if (!lie.length) continue;
    const [from, to] = [slice.flat(a), slice.flat(b)];
    marks.line(pen, from, to, marks.MEASURE, 2, lie.length === 2 ? [] : [4, 5]);
    for (const end of lie) marks.cross(pen, slice.flat(end), 5, marks.MEASURE);
    const words = `${Math.hypot(...minus(a, b)).toFixed(1)} mm`;
    marks.text(pen, words, [(from[0] + to[0]) / 2 + 10, (from[1] + to[1]) / 2 - 14], { size: 16, colour: marks.MEASURE, bold: true });
  }
}

// They belong to the volume on which they were clicked.
export function forgetMeasured() {
  measured = [];
}

// The last distance, mm; for those who cannot see it drawn.
export function lastMeasured() {
  const last = measured.at(-1);
  return last ? Math.hypot(...minus(...last)) : null;
}
