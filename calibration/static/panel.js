// The calibration page: shows the guide's state, and sends what the operator chooses.
import { addTexts, say } from "../static/texts.js";
import { WORDS } from "./words.js";
import { askedTwice, asks, element, keyed, setAttribute, setClass, setText } from "../static/dom.js";
import { drawCoverage, drawPicture } from "./pictures.js";

addTexts(WORDS);
await import("../static/language.js"); // sets all texts, these too

const by = (id) => document.getElementById(id);
const EVERY_MS = 500, PATIENCE_MS = 4000;
const HALT_MS = 2000; // Longer than anything that is heard takes to come again, but for X-rays.
let state = null;
let chosen = "";
let refused = "";

// --- numbers and words -----------------------------------------------------------------------------------------------

function brief(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return say("calUnknown");
  return Math.abs(value) >= 10 ** digits ? value.toFixed(0) : String(Number(value.toPrecision(digits)));
}

function quantity(value, unit, digits) {
  return `${brief(value, digits)}${unit === "" || unit === "°" ? "" : " "}${value === null ? "" : unit}`;
}

function result({ values, unit, within }) {
  const decimals = within ? Math.min(4, Math.max(0, 1 - Math.floor(Math.log10(within)))) : null;
  const numbers = values.map((value) => (decimals === null ? brief(value) : value.toFixed(decimals))).join(", ");
  return `${numbers}${within ? ` ± ${brief(within, 2)}` : ""}${unit === "°" ? "" : " "}${unit}`;
}

function change({ key, value, unit, limit }) {
  const text = `${say(`found.${key}`)} ${value < 0.01 ? `< ${quantity(0.01, unit)}` : quantity(value, unit, 2)}`;
  if (limit === null) return say("calBefore", text);
  return say("calBefore", say(value > limit ? "calDiffers" : "calSame", text, quantity(limit, unit, 2)));
}

const title = (step) => say(`title.${step.routine}`, step.tool);
const named = (name) => state.steps.find((step) => step.name === name);
const nameOf = (name) => (named(name) ? title(named(name)) : name);
const day = (ns) => new Date(ns / 1e6).toLocaleDateString(document.documentElement.lang, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

// --- steps -----------------------------------------------------------------------------------------------------------

function stateOf(step) {
  if (step.state === "refused") return say("state.refused", step.reason);
  if (step.state === "kept") return `${say("state.kept")}, ${say(`used.${step.used}`)}`;
  if (step.skipped) return say("state.skipped");
  return step.name === state.next ? `${say(`need.${step.need}`)}, ${say("state.next")}` : say(`need.${step.need}`);
}

function markOf(step) {
  if (step.state === "kept") return "✓";
  if (step.state === "refused") return "!";
  return step.skipped ? "–" : "○";
}

function showSteps() {
  keyed(by("steps"), state.steps, (step) => {
    const button = element("button", "", [element("span", "mark"), element("span", "", [element("span", "name"), element("small")])]);
    button.addEventListener("click", () => choose(step.name));
    return element("li", "", [button]);
  }, (item, step) => {
    const settled = step.state === "missing" ? (step.skipped ? "skipped" : step.need) : step.state;
    setClass(item, `${settled}${step.name === state.next ? " next" : ""}`);
    setText(item.querySelector(".mark"), markOf(step));
    setText(item.querySelector(".name"), title(step));
    setText(item.querySelector("small"), stateOf(step));
    const button = item.querySelector("button");
    if (step.name === chosen) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  });
  const wanted = state.steps.filter((step) => step.need !== "optional");
  const done = wanted.filter((step) => step.state === "kept" || step.skipped).length;
  setText(by("progress"), done === wanted.length ? say("calDone") : say("calRemain", done, wanted.length));
}

function choose(name, focus = false) {
  chosen = name;
  refused = "";
  show();
  if (focus) [...by("steps").querySelectorAll("button")].find((button) => button.ariaCurrent === "step")?.focus();
}

// --- the step that is chosen -----------------------------------------------------------------------------------------

const runOf = (step) => (state.run?.steps.includes(step.name) ? state.run : null);
const open = (run) => run && !run.running && !run.judging && !run.kept.length && !run.discarded;

function showTask(step, run) {
  const together = state.steps.filter((each) => each.measurement === step.measurement && each.tool === step.tool);
  setText(by("title"), title(step));
  setText(by("together"), together.length > 1 ? say("calTogether", together.length) : "");
  by("together").hidden = together.length < 2;
  setText(by("task"), say(`task.${step.measurement}`));
  drawPicture(by("picture"), step.measurement);
  setText(by("without"), say("calWithout", say(`without.${step.routine}`)));
  const lacks = step.lacks.map((lack) => ({ name: lack.code + lack.what, text: say(`lack.${lack.code}`, lack.code === "first" ? nameOf(lack.what) : lack.what) }));
  keyed(by("lacks"), lacks, () => element("li"), (item, { text }) => setText(item, text));
  by("tool-choice").hidden = !["points", "targets"].includes(step.measurement) || state.tools.length < 2;
  if (by("tool").options.length !== state.tools.length) by("tool").replaceChildren(...state.tools.map((name) => new Option(name)));
  const busy = Boolean(state.run?.running);
  setText(by("measure"), run?.running ? say("calStop") : say(step.state === "kept" || run ? "calAgain" : "calMeasure"));
  by("measure").disabled = run?.running ? false : busy || step.lacks.length > 0 || Boolean(state.run?.judging);
  by("keep").disabled = !(open(run) && run.verdicts.some((verdict) => verdict.passed));
  by("discard").disabled = !open(run);
  setText(by("discard"), asks(by("discard")) ? say("confirmReally", say("calDiscard")) : say("calDiscard"));
  setText(by("skip"), say(step.skipped ? "calUnskip" : "calSkip"));
  by("skip").disabled = Boolean(run?.running) || step.state === "kept";
  setText(by("kept"), step.created_ns ? `${say(step.expires_ns ? "calUntil" : "calEver", day(step.created_ns), day(step.expires_ns))} ${step.path}` : "");
}

// Whether nothing has come for a while from a device that was heard.
let counted = "", counted_ms = 0;
function halted(run) {
  const now = performance.now(), counts = JSON.stringify(run.samples);
  if (counts !== counted) [counted, counted_ms] = [counts, now];
  return now - counted_ms > HALT_MS;
}

// What to say now, and whether it is good news.
function advice(step, run) {
  if (refused) return [refused, "bad"];
  if (!run) return state.run?.running ? [say("calOther"), ""] : [step.lacks.length ? "" : say("calReady"), ""];
  if (run.kept.length) return [`${say("calSaved")}: ${say(`used.${step.used}`)}`, "good"];
  if (run.discarded) return [say("calDropped"), ""];
  if (run.judging && (!run.running || run.measurement === "shots")) return [say("calJudging"), ""];
  const silent = Object.entries(run.samples).filter(([, count]) => !count).map(([device]) => device);
  if (silent.length) return [say("calWaiting", silent.join(", ")), "bad"];
  if (run.running && run.unheard) return [say("calUnheard", run.unheard), "bad"];
  if (run.running && run.measurement !== "shots" && halted(run)) return [say("calHalted"), "bad"];
  if (run.problem) return [run.problem, "bad"];
  const failed = run.verdicts.find((verdict) => !verdict.passed);
  if (run.running) {
    if (run.measurement === "shots" && !run.verdicts.length) return [say("calShots", run.coverage.places.length), ""];
    return failed ? [say(`code.${failed.code}`), "bad"] : [say(run.complete ? "calGood" : "calGoOn"), run.complete ? "good" : ""];
  }
  if (!failed) return run.verdicts.length ? [say("calPassed"), "good"] : ["", ""];
  const passed = run.verdicts.filter((verdict) => verdict.passed).map((verdict) => nameOf(verdict.step));
  return passed.length ? [say("calPartly", passed.join(", ")), "bad"] : [say("calFailed", say(`code.${failed.code}`)), "bad"];
}

function figureRow({ key, value, at_least: atLeast, limit, unit, kept }) {
  const cells = [say(`figure.${key}`), quantity(value, unit), `${atLeast ? "≥" : "≤"} ${quantity(limit, unit)}`, kept ? "✓" : "✗"];
  return element("tr", "", cells.map((text, place) => element("td", place === 3 ? (kept ? "yes" : "no") : "", [text])));
}

// Figures of what passed are folded where there are other verdicts to read.
function showVerdict(box, verdict, running, others) {
  const passed = verdict.passed;
  setClass(box, `verdict ${passed ? "pass" : "fail"}`);
  const head = element("h3", "", [nameOf(verdict.step), " "]);
  if (!running) head.append(element("span", "word", [say(passed ? "calPass" : "calFail")]));
  const list = element("dl");
  for (const part of passed ? verdict.found : []) list.append(element("dt", "", [say(`found.${part.key}`)]), element("dd", "", [result(part)]));
  const why = passed || running ? [] : [element("p", "", [say(`code.${verdict.code}`)])];
  const differences = passed && !running ? verdict.changes.map((each) => element("p", "quiet", [change(each)])) : [];
  const points = Object.entries(verdict.points);
  const errors = points.length ? [element("p", "quiet", [points.map(([label, mm]) => `${label} ${quantity(mm, "mm", 2)}`).join("   ")])] : [];
  const table = element("table", "", [element("tbody", "", verdict.figures.map(figureRow))]);
  const folded = element("details", "", [element("summary", "", [say("calFigures", verdict.figures.length)]), table]);
  folded.open = !(passed && others);
  box.replaceChildren(head, ...why, list, ...differences, ...errors, folded);
}

function showMeasured(step, run) {
  const [text, mood] = advice(step, run);
  setText(by("advice"), text);
  setClass(by("advice"), mood);
  const shot = run?.running ? run.shot : null;
  setText(by("shot"), !shot ? "" : shot.beads ? say("calShot", shot.number, shot.beads, shot.of, quantity(shot.residual_px, "px", 2)) : say("calShotUnseen", shot.number));
  setClass(by("shot"), shot && !shot.beads ? "bad" : "");
  by("share").hidden = !run?.running;
  document.body.classList.toggle("measured", Boolean(run));
  if (run) by("share").value = run.share;
  setAttribute(by("share"), "aria-label", say("calCoverage"));
  const heard = run ? Object.entries(run.samples).map(([name, count]) => ({ name, count })) : [];
  keyed(by("heard"), heard, () => element("li"), (item, { name, count }) => {
    setText(item, say("calSamples", name, count));
    setClass(item, count ? "" : "silent");
  });
  const needed = run?.verdicts[0]?.figures.find(({ key }) => key === "axis_spread_rad")?.limit ?? 20;
  drawCoverage(by("coverage"), run?.coverage ?? { kind: "", places: [] }, needed / 2, say("calCoverage"));
  const labels = (run?.coverage.labels ?? []).map(([name, done]) => ({ name, done }));
  keyed(by("labels"), labels, () => element("li"), (item, { name, done }) => {
    setText(item, `${done ? "✓" : "○"} ${["dark", "flat"].includes(name) ? say(`label.${name}`) : name}`);
    setClass(item, done ? "done" : "");
  });
  const verdicts = (run?.verdicts ?? []).map((verdict) => ({ name: verdict.step, verdict }));
  keyed(by("verdicts"), verdicts, () => element("div"), (box, { verdict }) => {
    const shown = JSON.stringify([verdict, run.running, document.documentElement.lang]);
    if (box.shown === shown) return;
    box.shown = shown;
    showVerdict(box, verdict, run.running, verdicts.length > 1);
  });
}

function show() {
  if (!state) return;
  if (!named(chosen)) chosen = state.run?.steps[0] ?? (state.next || state.steps[0]?.name || "");
  const step = named(chosen);
  if (!step) return;
  showSteps();
  showTask(step, runOf(step));
  showMeasured(step, runOf(step));
}

// --- what the operator does ------------------------------------------------------------------------------------------

async function ask(path, body) {
  const patience = { signal: AbortSignal.timeout(PATIENCE_MS) }; // A server that hangs closes nothing.
  const post = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { ...patience, ...post });
  if (answer.ok) state = await answer.json();
  refused = answer.ok ? (body ? "" : refused) : await answer.text();
  show();
}

// What passed and waits to be kept is not thrown away for another step.
function waits() {
  const passed = open(state.run) && state.run.verdicts.some((verdict) => verdict.passed);
  return passed && !state.run.steps.includes(chosen) ? state.run.steps[0] : "";
}

function measure() {
  const first = waits();
  if (first) {
    refused = say("calFirst", nameOf(first));
    return show();
  }
  return ask(runOf(named(chosen))?.running ? "stop" : "begin", { step: chosen, tool: by("tool-choice").hidden ? "" : by("tool").value });
}

const act = {
  measure,
  keep: () => ask("keep", {}),
  skip: () => ask("skip", { step: chosen, skipped: !named(chosen).skipped }),
};
for (const [id, does] of Object.entries(act)) by(id).addEventListener("click", does);
askedTwice(by("discard"), () => ask("discard", {}));
by("discard").addEventListener("click", show);

function move(by) {
  const place = state.steps.findIndex((step) => step.name === chosen);
  choose(state.steps[Math.min(Math.max(place + by, 0), state.steps.length - 1)].name, true);
}

const KEYS = { ArrowUp: () => move(-1), ArrowDown: () => move(1), Enter: "measure", k: "keep", d: "discard", l: "skip" };
document.addEventListener("keydown", (event) => {
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const elsewhere = event.target.closest("select, a") || (event.key === "Enter" && event.target.closest("button:not([aria-current]), summary"));
  const held = event.repeat && typeof action !== "function";
  if (!state || !action || elsewhere || held || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (typeof action === "function") action();
  else if (!by(action).disabled) by(action).click();
});
by("language").addEventListener("change", show);

async function follow() {
  try {
    await ask("state");
    by("silence").hidden = true;
  } catch {
    by("silence").hidden = false;
  }
  setTimeout(follow, EVERY_MS);
}
follow();
