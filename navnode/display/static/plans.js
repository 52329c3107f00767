// The list of plans: which one is aimed at, which are seen; plans made by clicking and from files.
import { command } from "./control.js";
import { askedTwice, asks, element, keyed, setAttribute, setText } from "./dom.js";
import { ask, stop } from "./pick.js";
import { say } from "./texts.js";

const MOST_BYTES = 1 << 20;
const list = document.getElementById("plan-list");
const said = document.getElementById("plan-said");
const [form, nameField] = [document.getElementById("plan-form"), document.getElementById("plan-name")];
const [make, fileButton, fileField] = ["plan-new", "plan-file", "plan-field"].map((id) => document.getElementById(id));
const hidden = new Set();
let known = [];
let points = null;
let refusals = [];
let before = [], aimedBefore = "";
let wereSilent = false;

// Those that are drawn: all that are not hidden, then the one that is aimed at, which none may cover.
export const shownPlans = ({ plans }) => [
  ...plans.filter(({ name, active }) => !active && !hidden.has(name)),
  ...plans.filter(({ active }) => active),
];

export function drawPlans(scene) {
  notice(scene);
  known = scene.silent ? [] : scene.plans;
  keyed(list, known, makeRow, ({ aim, see, gone }, { name, active }) => {
    setText(aim, name);
    setAttribute(aim, "aria-pressed", active);
    setAttribute(aim, "title", `${name}: ${say(active ? "planStop" : "planAim")}`);
    const seen = active || !hidden.has(name);
    setText(see, seen ? "◉" : "○");
    setAttribute(see, "aria-pressed", seen);
    setAttribute(see, "aria-label", `${say("show")} ${name}`);
    see.disabled = active;
    setText(gone, asks(gone) ? say("planReally") : "✕");
    setAttribute(gone, "aria-label", `${say(asks(gone) ? "planReally" : "planRemove")} ${name}`);
  });
  setText(make, say(points === "asking" ? "cancel" : "planNew"));
}

// A node that started anew has lost the plans that it did not keep, and may aim at another one.
function notice({ silent, plans }) {
  if (silent) return (wereSilent = true);
  const names = plans.map(({ name }) => name), aimed = plans.find(({ active }) => active)?.name ?? "";
  if (wereSilent) {
    const gone = before.filter((name) => !names.includes(name));
    if (gone.length) refuse(say("plansGone", gone.join(", ")));
    if (aimedBefore && aimed && aimed !== aimedBefore) refuse(say("planOther", aimed, aimedBefore));
  }
  for (const name of hidden) if (!names.includes(name)) hidden.delete(name);
  [before, aimedBefore, wereSilent] = [names, aimed, false];
}

function makeRow({ name }) {
  const [aim, see, gone] = ["aim", "see", "gone"].map((className) => element("button", className));
  aim.addEventListener("click", () => {
    afresh();
    tell("PlanActivate", known.find((plan) => plan.name === name)?.active ? {} : { Plan: name });
  });
  see.addEventListener("click", () => (hidden.has(name) ? hidden.delete(name) : hidden.add(name)));
  gone.addEventListener("click", afresh);
  askedTwice(gone, () => tell("PlanRemove", { Plan: name }));
  return Object.assign(element("li", "row", [aim, see, gone]), { aim, see, gone });
}

async function tell(name, parameters) {
  const { done, text } = await command(name, parameters);
  const unkept = /; (but it is not kept: .*)$/s.exec(text)?.[1];
  if (!done || unkept) refuse(done ? `${parameters.Plan ?? ""}: ${unkept}` : text);
  return done;
}

// What was refused stays until the viewer does something else; what was done is seen in the list.
function refuse(text) {
  refusals.push(text);
  setText(said, refusals.join("\n"));
}

function afresh() {
  refusals = [];
  setText(said, "");
}

const numbers = (at) => at.map((value) => value.toFixed(2)).join(" ");
const add = ({ name, entry_mm, target_mm }) =>
  tell("PlanAdd", { Plan: name, Entry: numbers(entry_mm), Target: numbers(target_mm) });

make.addEventListener("click", () => {
  if (points === "asking") return stop();
  afresh();
  form.hidden = true; // Points that have no name yet are clicked anew.
  points = "asking";
  ask(["pickEntry", "pickTarget"], (clicked) => {
    points = clicked?.map(({ at_mm }) => at_mm) ?? null;
    form.hidden = !points;
    if (!points) return;
    const free = [...Array(99).keys()].map((n) => `${say("plan")} ${n + 1}`).find((each) => !known.some(({ name }) => name === each));
    nameField.value = free ?? "";
    nameField.focus();
    nameField.select();
  });
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!Array.isArray(points)) return;
  const [entry_mm, target_mm] = points;
  afresh();
  if (await add({ name: nameField.value.trim(), entry_mm, target_mm })) form.reset();
  else return; // The points stay: another name may do.
  form.hidden = true;
  points = null;
  make.focus();
});
form.addEventListener("reset", () => {
  if (form.contains(document.activeElement)) make.focus();
  form.hidden = true;
  points = null;
});
form.querySelector("[type=reset]").addEventListener("click", afresh);

// Points that were clicked on a volume that is gone lie nowhere.
export function forgetPoints() {
  stop();
  form.reset();
}

// A file is read by the server, with the same checks as on the command line; each of its plans is then asked for.
async function bring(file) {
  if (file.size > MOST_BYTES) return refuse(say("fileLarge", file.name));
  let answer;
  try {
    answer = await fetch(`plans?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
  } catch {
    return refuse(say("noConnection"));
  }
  if (!answer.ok) return refuse(await answer.text());
  const { plans } = await answer.json();
  for (const plan of plans) {
    const old = known.find(({ name }) => name === plan.name);
    if ((await add(plan)) && old && !same(old, plan)) refuse(say("planReplaced", plan.name));
  }
}

const same = (one, other) =>
  ["entry_mm", "target_mm"].every((end) => one[end].every((value, axis) => Math.abs(value - other[end][axis]) < 0.01));

async function bringAll(files) {
  afresh();
  for (const file of files) await bring(file);
}

fileButton.addEventListener("click", () => fileField.click());
fileField.addEventListener("change", async () => {
  await bringAll(fileField.files);
  fileField.value = "";
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  bringAll(event.dataTransfer.files);
});
