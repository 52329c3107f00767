// The page of serve-models: pictures and options go to the server, its state is drawn.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let state = null, corrections = new Map(), drawnRun = "", told = "", busy = 0, names = new Map();

async function ask(path, body, type = "application/json") {
  const answer = await fetch(path, { method: "POST", body, headers: { "Content-Type": type } });
  if (!answer.ok) throw new Error(await answer.text());
  show(await answer.json());
}

function say(text, bad = false) { $("say").textContent = text; $("say").classList.toggle("bad", bad); }

async function doing(work) {
  busy += 1;
  try { await work(); } catch (error) { say(error.message, true); } finally { busy -= 1; show(state); }
}

// Pictures -----------------------------------------------------------------------------------------------
const take = (files) => doing(async () => {
  say("");
  for (const file of files) {
    const jig = file.name.toLowerCase().endsWith(".json");
    say(`Receiving ${file.name} ...`);
    const before = new Set(state.pictures.map((picture) => picture.number));
    try {
      await ask(jig ? "jig" : "pictures", file, "application/octet-stream");
    } catch (error) { throw new Error(`${file.name}: ${error.message}`); }
    for (const picture of state.pictures) if (!before.has(picture.number)) names.set(picture.number, file.name);
    drawPictures();
  }
  say("");
});
$("files").addEventListener("change", (event) => { take([...event.target.files]).then(() => { event.target.value = ""; }); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}

function drawPictures() {
  $("pictures").replaceChildren(...state.pictures.map((picture, at) => {
    const row = document.createElement("li"), text = document.createElement("span"), out = document.createElement("button");
    text.textContent = `Picture ${at + 1}: ${names.get(picture.number) ?? `a .${picture.kind} file`}`;
    out.textContent = "Remove";
    out.disabled = Boolean(state.run?.running);
    out.addEventListener("click", () => doing(() => { corrections.clear(); return ask(`pictures/${picture.number}/remove`); }));
    row.append(text, out);
    return row;
  }));
}

// Options ------------------------------------------------------------------------------------------------
const byJig = () => document.querySelector("[name=how]:checked").value === "jig";
for (const choice of document.querySelectorAll("[name=how]")) choice.addEventListener("change", () => show(state));
$("jig").addEventListener("change", () => doing(() => ask(`jig/${encodeURIComponent($("jig").value)}`)));

const number = (id) => ($(id).value.trim() === "" ? null : Number($(id).value));
const asked = () => JSON.stringify({
  use_jig: byJig(), angles: $("angles").value, pixel_mm: number("pixel_mm"), distance_mm: number("distance_mm"),
  patient_mm: number("patient_mm"),
  beads: byJig() ? [...corrections].map(([picture, each]) => ({ picture, beads_px: each.add, no_beads_px: each.drop })) : [],
});
const run = () => doing(() => { say(""); return ask("run", asked()); });
$("run").addEventListener("click", run);
$("again").addEventListener("click", run);
$("cancel").addEventListener("click", () => doing(() => ask("cancel")));
$("clear").addEventListener("click", () => doing(async () => { corrections.clear(); names.clear(); say(""); await ask("clear"); }));
$("undo").addEventListener("click", () => { corrections.clear(); drawnRun = ""; show(state); });

// What was read ------------------------------------------------------------------------------------------
function circle(u, v, r, kind, title) {
  const made = document.createElementNS(SVG, "circle");
  for (const [key, value] of Object.entries({ cx: u + .5, cy: v + .5, r, class: kind })) made.setAttribute(key, value);
  if (title) {
    const text = document.createElementNS(SVG, "title");
    text.textContent = title;
    made.append(text);
  }
  return made;
}

const near = (places, u, v, reach) => places.findIndex(([x, y]) => Math.hypot(x - u, y - v) <= reach);

function correct(read, u, v, reach) {
  const mine = corrections.get(read.number) ?? { add: [], drop: [] };
  let at;
  if ((at = near(mine.add, u, v, reach)) >= 0) mine.add.splice(at, 1);
  else if ((at = near(mine.drop, u, v, reach)) >= 0) mine.drop.splice(at, 1);
  else {
    const found = read.beads.map((bead) => [bead.u_px, bead.v_px]);
    if ((at = near(found, u, v, reach)) >= 0) mine.drop.push(found[at]);
    else mine.add.push([u, v]);
  }
  if (mine.add.length + mine.drop.length) corrections.set(read.number, mine); else corrections.delete(read.number);
}

function beadFigure(runNumber, read) {
  const box = document.createElement("figure"), over = document.createElement("div"), caption = document.createElement("figcaption");
  const picture = document.createElement("img"), svg = document.createElementNS(SVG, "svg");
  over.className = "overlaid";
  picture.src = `shown/${runNumber}/${read.preview}`;
  picture.alt = `Picture ${read.number}`;
  svg.setAttribute("viewBox", `0 0 ${read.width_px} ${read.height_px}`);
  svg.dataset.picture = read.number;
  const r = Math.max(1.6 * read.radius_px, read.width_px / 160);
  for (const [u, v] of read.others_px) svg.append(circle(u, v, r, "o", "looks like a bead, not used"));
  for (const bead of read.missing) svg.append(circle(bead.u_px, bead.v_px, r, "m", `${bead.id}: expected here`));
  for (const bead of read.beads) svg.append(circle(bead.u_px, bead.v_px, r, "f", bead.id));
  const mine = corrections.get(read.number) ?? { add: [], drop: [] };
  for (const [u, v] of mine.add) svg.append(circle(u, v, r, "add", "a bead, as you say"));
  for (const [u, v] of mine.drop) svg.append(circle(u, v, 1.4 * r, "drop", "no bead, as you say"));
  svg.addEventListener("click", (event) => {
    if (state.run?.running) return;
    const place = svg.getBoundingClientRect(), scale = read.width_px / place.width;
    const [u, v] = [(event.clientX - place.left) * scale - .5, (event.clientY - place.top) * scale - .5];
    correct(read, u, v, Math.max(1.5 * r, 10 * scale));
    drawnRun = "";
    show(state);
  });
  over.append(picture, svg);
  const count = `${read.beads.length} beads found, ${read.missing.length} not`;
  caption.textContent = read.beads.length
    ? `Picture ${read.number}: ${count}${read.reason ? `. ${read.status}: ${read.reason}` : ""}`
    : `Picture ${read.number}: the jig was not found. ${read.reason}`;
  box.append(over, caption);
  return box;
}

function boneFigure(runNumber, read) {
  const box = document.createElement("figure"), caption = document.createElement("figcaption"), picture = document.createElement("img");
  picture.className = "bones";
  picture.src = `shown/${runNumber}/${read.drawn}`;
  picture.alt = `Bone read in picture ${read.number}`;
  const kinds = Object.entries(read.kinds).map(([kind, share]) => `${kind} ${Math.round(100 * share)} %`).join(", ");
  caption.textContent = `Picture ${read.number}, bone read: ${kinds || "which bones they are is not clear"}`;
  box.append(picture, caption);
  return box;
}

// All ----------------------------------------------------------------------------------------------------
function step(run) {
  if (run.bones.length) return "Making the model ...";
  if (byJig() && run.beads.length < state.pictures.length) return `Looking for beads in picture ${run.beads.length + 1} ...`;
  return "Reading bone ...";
}

function show(next) {
  if (!next) return;
  state = next;
  const made = state.run, running = Boolean(made?.running);
  drawPictures();
  if (document.activeElement !== $("jig")) {
    $("jig").replaceChildren(...state.jigs.map((name) => new Option(name, name, false, name === state.jig?.name)));
  }
  $("jig-note").textContent = state.jig?.measured ? "measured" : "as laid out, not measured: scale is less certain (navnode jig check)";
  $("with-jig").hidden = !byJig();
  $("with-angles").hidden = byJig();
  $("run").disabled = busy > 0 || running || state.pictures.length < 2;
  $("again").disabled = $("run").disabled;
  $("clear").disabled = running;
  $("cancel").hidden = $("progress").hidden = !running;
  if (made) $("progress").value = made.share;
  const outcome = made && !running ? `${made.number} ${made.failed}` : "";
  if (running) say(step(made));
  else if (outcome && outcome !== told) {
    if (made.failed) say(made.failed === "cancelled" ? "Cancelled." : made.failed, made.failed !== "cancelled");
    else say(`Done in ${(made.report.elapsed_ms / 1e3).toFixed(1)} s.`);
  }
  told = outcome;
  $("read").hidden = !made || !(made.beads.length + made.bones.length);
  $("bead-help").hidden = !made?.beads.length;
  const count = [...corrections.values()].reduce((sum, each) => sum + each.add.length + each.drop.length, 0);
  $("corrections").textContent = count ? `${count} correction${count > 1 ? "s" : ""}` : "";
  $("again").hidden = $("undo").hidden = !count;
  const key = made ? `${made.number} ${made.beads.length} ${made.bones.length} ${count}` : "";
  if (key !== drawnRun) {
    drawnRun = key;
    $("figures").replaceChildren(...(made ? [...made.beads.map((read) => beadFigure(made.number, read)),
      ...made.bones.map((read) => boneFigure(made.number, read))] : []));
  }
  showResult(made);
}

function showResult(made) {
  const report = made?.report;
  $("result").hidden = !report;
  if (!report) { $("report").removeAttribute("src"); return; }
  const source = `result/${made.number}/report.html`;
  $("kept").textContent = made.kept ? `Kept: ${made.kept}` : state.keeps ? "" : "Not kept on this machine: download what you need.";
  if ($("report").getAttribute("src") === source) return;
  $("verdict").textContent = `${report.status}: ${report.reason}`;
  $("verdict").className = `verdict ${report.status}`;
  $("downloads").replaceChildren(...["all.zip", ...made.files].map((name) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = `result/${made.number}/${name}?download`;
    link.download = name;
    link.textContent = name;
    item.append(link);
    return item;
  }));
  $("report").src = source;
}

async function poll() {
  try {
    const answer = await fetch("state");
    if (!busy) {
      const first = !state;
      const next = await answer.json();
      if (first) for (const each of next.asked.beads) corrections.set(each.picture, { add: each.beads_px, drop: each.no_beads_px });
      show(next);
    }
    $("silence").hidden = true;
  } catch { $("silence").hidden = false; }
  setTimeout(poll, state?.run?.running ? 300 : 2000);
}
poll();
