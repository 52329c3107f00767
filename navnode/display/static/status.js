// The strip that is read from two metres: state, one reason, what to do; and the details behind it.
import { explain, told, verdict } from "./advice.js";
import { recorded, replayHeld } from "./control.js";
import { element, keyed, setAttribute, setClass, setText } from "./dom.js";
import { say } from "./texts.js";

const strip = document.getElementById("strip");
const [state, tool, cause, advice] = ["state", "state-of", "cause", "advice"].map((id) => document.getElementById(id));
const [caseName, caseSide] = ["case-name", "case-side"].map((id) => document.getElementById(id));
const details = document.getElementById("details");
const opener = document.getElementById("details-open");

const silence = document.querySelector("#silence strong");
const SAID_MS = 1000;
let said = { what: "", at_ms: 0 };

function open(wanted) {
  details.hidden = !wanted;
  setAttribute(opener, "aria-expanded", wanted);
}
opener.addEventListener("click", () => open(details.hidden));
document.getElementById("verdict").addEventListener("click", () => open(details.hidden));
addEventListener("keydown", ({ key }) => {
  if (key !== "Escape" || details.hidden) return;
  open(false);
  opener.focus();
});

// Returns the verdict that is shown.
export function drawStatus(scene) {
  const shown = verdict(scene);
  const { status, reason } = shown;
  const sigma = scene.state?.target_sigma_mm;
  const good = status === "VALID";
  // A replay that stands still is why nothing is heard of markers and sources.
  const held = status === "INVALID" && !scene.silent && replayHeld();
  const why = held ? told(held) : explain(reason);
  const name = shown.tool || say("registration");
  drawDetails(scene);
  if (scene.silent) setText(silence, why.cause);
  // The same reason with another figure: figures that change with every X-ray cannot be read.
  const same = [status, why.key || reason, name, document.documentElement.lang].join();
  const now = performance.now();
  if (same === said.what && now - said.at_ms < SAID_MS) return shown;
  said = { what: same, at_ms: now };
  setClass(strip, status);
  setText(state, say(`state${status}`));
  setText(tool, name);
  setText(cause, good ? say("usable") : why.cause);
  setText(advice, good ? say("expected", sigma == null ? "–" : sigma.toFixed(1)) : why.advice);
  setAttribute(cause, "title", reason);
  const patient = scene.case ?? { name: "", side: "" };
  setText(caseName, patient.name);
  setText(caseSide, patient.side && say(patient.side));
  return shown;
}

function drawDetails({ registration, bodies, tools, state: figures, moving }) {
  const count = figures?.notices.length ?? 0;
  setText(opener, say("details") + (count ? ` · ${say("notices")}: ${count}` : ""));
  if (details.hidden) return;
  const badges = [{ name: "", validity: registration }, ...bodies, ...tools];
  keyed(document.getElementById("badges"), badges, makeBadge, ({ children: [name, plain, why] }, item) => {
    setText(name, `${item.name || say("registration")} ${say(`state${item.validity.status}`)}`);
    setClass(name, `badge ${item.validity.status}`);
    const { key, cause } = explain(item.validity.reason);
    setText(plain, key && cause);
    setMessage(why, item.validity.reason);
  });
  document.getElementById("moving").hidden = !moving;
  setText(document.getElementById("figures"), figuresOf(figures, registration));
  setText(document.getElementById("sources"), sourcesOf(figures));
  const notices = (figures?.notices ?? []).map((name) => ({ name }));
  keyed(document.getElementById("notices"), notices, makeMessage, (node, { name }) => setMessage(node, name));
}

const makeBadge = () => element("li", "", [element("b"), element("strong"), makeMessage()]);

// What the node says leads, in a tab of its own, to what it means and what to do.
function makeMessage() {
  const node = element("a", "message");
  node.target = "_blank";
  return node;
}

function setMessage(node, said) {
  setText(node, said);
  if (said) setAttribute(node, "href", `/messages?said=${encodeURIComponent(said)}`);
  else node.removeAttribute("href");
}

// A figure that nothing new stands behind is blank.
function figuresOf(figures, registration) {
  const fresh = figures && figures.frame_rate_hz > 0;
  const ms = (pair) => pair.map((value) => (value == null ? "–" : value.toFixed(value < 10 ? 1 : 0))).join(" / ");
  const sigma = registration.status === "INVALID" ? null : figures?.target_sigma_mm;
  return [
    `${say("frames")} ${fresh ? figures.frame_rate_hz.toFixed(1) : "–"}`,
    `${say("frameToPose")} ${fresh ? ms(figures.latency_ms) : "–"}`,
    `${say("overlay")} ${fresh ? ms(figures.overlay_ms) : "–"}`,
    `${say("sigma")} ${sigma == null ? "–" : sigma.toFixed(2)}`,
  ].join("   ·   ");
}

function sourcesOf(figures) {
  if (!figures) return "–";
  const [took, elsewhere, budget] = figures.volume_s, recording = recorded(figures.recording);
  return [
    `${say("volume")}: ${figures.volume || say("nothingYet")}`,
    say("registered", figures.frames_registered, figures.frames_received),
    `${say("dose")}: ${doseOf(figures.dose)}`,
    ...(recording ? [`${say("recording")}: ${recording}`] : []),
    ...Object.entries(figures.sources).map(([name, why]) => `${name} ${why || say("connected")}`),
    `${say("reconstruction")}: ${figures.worker}, ${say("volumesMade", figures.volumes)}` +
      (took == null ? "" : `, ${say("volumeTook", took, elsewhere, budget)}`),
  ].join("\n");
}

function doseOf({ frames, stated, gy_cm2, msv, ct_share }) {
  if (!frames) return say("doseNone");
  if (msv == null || ct_share == null) {
    const known = stated ? `, ${say("doseOthers", short(gy_cm2))}` : "";
    return say("doseUnknown", frames, frames - stated) + known;
  }
  const partly = stated < frames ? ` (${say("dosePartly")})` : "";
  return say("doseKnown", frames, short(gy_cm2), short(msv), short(100 * ct_share)) + partly;
}

// Two significant digits, without an exponent.
const short = (value) => (value >= 10 ? value.toFixed(0) : value >= 0.001 ? String(Number(value.toPrecision(2))) : value.toFixed(4));
