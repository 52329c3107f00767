// How the tool deviates from the plan that is aimed at: figures, the view along the plan, and the C-arm's next view.
import { explain } from "./advice.js";
import { setAttribute, setClass, setText } from "./dom.js";
import { drawTarget } from "./target.js";
import { say } from "./texts.js";

const panel = document.getElementById("aim");
const [name, mark, why, view] = ["aim-plan", "aim-mark", "aim-why", "aim-view"].map((id) => document.getElementById(id));
const rows = ["lateral_mm", "angle_deg", "depth_mm"].map((key) => {
  const row = panel.querySelector(`[data-figure=${key}]`);
  return [key, row.querySelector("b"), row.querySelector("i")];
});
const depthName = panel.querySelector("[data-figure=depth_mm] dt span");
const canvas = document.getElementById("target");

export function drawAim(scene) {
  const { aim } = scene;
  document.getElementById("aim-none").hidden = Boolean(aim);
  panel.hidden = !aim;
  if (!aim) return;
  const { status, reason } = aim.validity;
  setText(name, aim.plan);
  setAttribute(name, "title", aim.plan);
  setClass(panel, status);
  // Colour, shape and word: what is in doubt must not look like what holds.
  setText(mark, { VALID: "", DEGRADED: `▲ ${say("stateDEGRADED")}`, INVALID: `■ ${say("stateINVALID")}` }[status]);
  setText(why, status === "VALID" ? "" : explain(reason).cause);
  for (const [key, value, half] of rows) {
    const pair = status === "INVALID" ? null : aim[key];
    setText(value, pair ? pair[0].toFixed(1) : "–");
    setText(half, pair ? `± ${pair[1].toFixed(1)}` : "± –");
  }
  const beyond = status !== "INVALID" && aim.depth_mm?.[0] < 0;
  setText(depthName, say(beyond ? "beyond" : "depth"));
  setClass(depthName, beyond ? "beyond" : "");
  const plan = scene.plans.find(({ active }) => active);
  const tool = status === "INVALID" ? null : scene.tools.find((each) => each.name === aim.tool && each.tip_mm);
  drawTarget(canvas, plan, tool, scene.oriented);
  drawView(aim.view);
}

function drawView(next) {
  setClass(view, next?.there ? "there" : "");
  if (!next) return setText(view, say("viewUnknown"));
  const [lao, cranial] = next.turn_deg;
  const to = angles(next.to_deg);
  if (next.there) return setText(view, `✓ ${say("viewThere", to)}`);
  const turns = [
    Math.abs(lao) >= 1 ? `${Math.abs(lao).toFixed(0)}° ${lao > 0 ? "LAO" : "RAO"}` : "",
    Math.abs(cranial) >= 1 ? `${Math.abs(cranial).toFixed(0)}° ${say(cranial > 0 ? "cranial" : "caudal")}` : "",
  ].filter(Boolean);
  setText(view, say("viewTurn", turns.join(" + ") || "1°", to));
}

const angles = ([lao, cranial]) =>
  `${lao >= 0 ? "LAO" : "RAO"} ${Math.abs(lao).toFixed(0)}°, ${say(cranial >= 0 ? "cranial" : "caudal")} ${Math.abs(cranial).toFixed(0)}°`;
