// Shows what the panel's server measures; every choice is the operator's.
const by = (id) => document.getElementById(id);
const svg = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const made = document.createElementNS(svg, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function drawCoverage(points) {
  const widest = Math.max(25, ...points.map(([x, y]) => Math.hypot(x, y)));
  const scale = 108 / widest;
  const parts = [10, 20, 30, 45, 60, 90].filter((ring) => ring <= widest).flatMap((ring) => [
    element("circle", { class: "ring", r: ring * scale }),
    element("text", { x: 2, y: -ring * scale - 1 }, `${ring}°`),
  ]);
  for (const [x, y, used] of points) {
    parts.push(element("circle", { class: used ? "used" : "out", cx: x * scale, cy: -y * scale, r: 2 }));
  }
  by("coverage").replaceChildren(...parts);
}

function row(cells) {
  const made = document.createElement("tr");
  made.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return made;
}

function brief(value) {
  return typeof value === "number" ? Number(value.toPrecision(3)).toString() : value === null ? "–" : String(value);
}

function say(text, mood) {
  by("say").textContent = text;
  by("say").className = mood;
}

function show(state) {
  if (by("tool").options.length !== state.tools.length) {
    by("tool").replaceChildren(...state.tools.map((name) => new Option(name)));
  }
  by("points").hidden = !state.points;
  const run = state.run;
  by("stop").disabled = !run?.running;
  by("save").disabled = !run?.passed || Boolean(run.saved);
  if (!run) return;
  const silent = Object.entries(run.samples).filter(([, count]) => !count).map(([device]) => device);
  const advice = run.reason.split("; ").pop();
  if (run.saved) say(`PASS, kept as ${run.saved}`, "good");
  else if (run.problem) say(run.problem, "bad");
  else if (silent.length) say(`waiting for ${silent.join(", ")}`, "bad");
  else if (run.passed) say("PASS: go on for a moment, then keep it", "good");
  else if (run.reason) say(run.running ? advice : `FAIL: ${run.reason}`, "bad");
  drawCoverage(run.coverage);
  const samples = Object.entries(run.samples).map(([device, count]) => row([device, `${count} samples`, ""]));
  const figures = run.figures.map(({ name, value, gate }) => row([name, brief(value), `gate ${brief(gate)}`]));
  const points = Object.entries(run.points).map(([label, off]) => row([label, `${brief(off)} mm`, ""]));
  by("figures").replaceChildren(...samples, ...figures, ...points);
}

async function ask(path, body) {
  const answer = await fetch(path, body ? { method: "POST", body: JSON.stringify(body) } : undefined);
  if (answer.ok) show(await answer.json());
  else say(await answer.text(), "bad");
}

for (const button of document.querySelectorAll("[data-routine]")) {
  button.addEventListener("click", () => ask("start", { routine: button.dataset.routine, tool: by("tool").value }));
}
by("stop").addEventListener("click", () => ask("stop", {}));
by("save").addEventListener("click", () => ask("save", {}));

async function follow() {
  try {
    await ask("state");
  } catch {
    say("No connection to the node.", "bad");
  }
  setTimeout(follow, 500);
}
follow();
