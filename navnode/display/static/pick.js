// Points that a viewer is asked to click on slices, one after the other; only one question at a time.
import { setText } from "./dom.js";
import { say } from "./texts.js";

const hint = document.getElementById("hint");
let question = null;
let onBegin = () => {};

// What else happens when points are asked for.
export function begins(callback) {
  onBegin = callback;
}

function show() {
  hint.hidden = !question;
  if (question) setText(hint, say(question.prompts[question.points.length]));
  document.body.classList.toggle("picking", Boolean(question));
}

// `prompts` are keys of texts.js, one for each point; `done` gets the points, [{at_mm, pane}], or null: given up.
export function ask(prompts, done) {
  stop();
  question = { prompts, points: [], done };
  onBegin();
  show();
}

export function stop() {
  const asked = question;
  question = null;
  show();
  asked?.done(null);
}

// Whether a click at a point was an answer.
export function take(at_mm, pane) {
  if (!question) return false;
  question.points.push({ at_mm, pane });
  if (question.points.length === question.prompts.length) {
    const { points, done } = question;
    question = null;
    done(points);
  }
  show();
  return true;
}

// The points that are clicked already.
export const soFar = () => question?.points ?? [];

addEventListener("keydown", ({ key }) => key === "Escape" && question && stop());
