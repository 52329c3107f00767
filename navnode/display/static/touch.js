// How far a tool's tip is from a point that somebody knows: clicked on a slice, then touched with the tool.
import { command } from "./control.js";
import { setClass, setText } from "./dom.js";
import * as marks from "./marks.js";
import { ask, stop } from "./pick.js";
import { say } from "./texts.js";

const [choose, measure, said] = ["touch-point", "touch", "touch-said"].map((id) => document.getElementById(id));
const IN_SLICE_MM = 1.5;
let point = null; // Where it is, mm; "asking" while it is clicked.
let tool = "";
let answer = null;

const known = () => (Array.isArray(point) ? point : null);

choose.addEventListener("click", () => {
  if (point === "asking") return stop();
  ask(["touchPick"], (clicked) => {
    answer = null;
    point = clicked && clicked[0].at_mm;
  });
  point = "asking";
});

measure.addEventListener("click", async () => {
  const [asked, at_mm] = [tool, known()];
  measure.disabled = true;
  const came = await command("CheckTip", { Tool: asked, Point: at_mm.map((x) => x.toFixed(2)).join(" ") });
  measure.disabled = false;
  if (at_mm === point) answer = came; // Otherwise it is of another point.
});

// What the node measured, in the page's language; what else it says, as it stands. Also whether that is bad news.
export function touched({ done, text }) {
  const found = /^(.+) is ([\d.]+) mm from the point, (more than the|expected up to) ([\d.]+) mm(?: expected)?(.*)$/.exec(text);
  if (!done || !found) return [text, true];
  const [, name, off, how, limit, doubt] = found;
  const far = how.startsWith("more");
  return [say(far ? "touchFar" : "touchOff", name, off, limit) + doubt, far];
}

export function drawTouch(scene) {
  const active = scene.state?.active_tool ?? "";
  if (active !== tool) answer = null;
  tool = active;
  choose.disabled = scene.silent || !tool;
  setText(choose, say(point === "asking" ? "cancel" : known() ? "touchOther" : "touchPoint"));
  measure.hidden = !known() || choose.disabled;
  setText(measure, say("touchMeasure", tool));
  const [words, bad] = answer ? touched(answer) : [known() && !choose.disabled ? say("touchHold", tool) : "", false];
  setText(said, words);
  setClass(said, bad ? "refused" : "");
}

// Where the point lies in this slice.
export function drawTouched(pen, slice) {
  const at_mm = known();
  if (at_mm && Math.abs(slice.off(at_mm)) <= IN_SLICE_MM) {
    marks.ring(pen, slice.flat(at_mm), 9, marks.MEASURE);
    marks.cross(pen, slice.flat(at_mm), 5, marks.MEASURE);
  }
}

// It belongs to the volume on which it was clicked.
export function forgetTouched() {
  if (point === "asking") stop();
  point = answer = null;
}
