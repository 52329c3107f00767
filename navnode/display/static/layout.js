// Which pictures are seen, and how large: one, two or four panes, X-rays large, full screen, the panel at the side.
import { kept } from "./dom.js";

const LAYOUTS = ["4", "2", "1", "xray"];
const main = document.querySelector("main");
const panes = [...document.querySelectorAll(".pane")];
const buttons = [...document.querySelectorAll("[data-layout-to]")];
let chosen = panes.find(({ dataset }) => dataset.pane === kept.get("pane", "axial")) ?? panes[0];

function lay(layout) {
  const wanted = LAYOUTS.includes(layout) ? layout : "4";
  main.dataset.layout = wanted;
  kept.set("layout", wanted);
  for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.layoutTo === wanted);
  const beside = chosen.dataset.pane === "bone" ? panes[0] : panes.find(({ dataset }) => dataset.pane === "bone");
  const seen = { 4: panes, 1: [chosen] }[wanted] ?? [chosen, beside];
  for (const pane of panes) pane.hidden = !seen.includes(pane);
}

// The chosen pane alone, or all four again.
export function enlarge() {
  lay(main.dataset.layout === "1" ? "4" : "1");
}

function choose(pane) {
  chosen = pane;
  kept.set("pane", pane.dataset.pane);
  for (const each of panes) each.classList.toggle("chosen", each === pane);
}

for (const button of buttons) button.addEventListener("click", () => lay(button.dataset.layoutTo));
for (const pane of panes) {
  pane.addEventListener("focus", () => choose(pane));
  pane.addEventListener("pointerdown", () => choose(pane));
}
// The slices tell a click from two by themselves.
panes.find(({ dataset }) => dataset.pane === "bone").addEventListener("dblclick", () => enlarge());
for (const canvas of document.querySelectorAll(".view canvas")) {
  canvas.addEventListener("dblclick", () => lay(main.dataset.layout === "xray" ? "4" : "xray"));
}

document.getElementById("full").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen();
});

const side = document.getElementById("side"), sideButton = document.getElementById("side-open");
function showSide(wanted) {
  side.hidden = !wanted;
  main.classList.toggle("beside", wanted);
  sideButton.setAttribute("aria-pressed", wanted);
  kept.set("side", wanted ? "on" : "off");
}
sideButton.addEventListener("click", () => showSide(side.hidden));

showSide(kept.get("side", "on") === "on");
choose(chosen);
lay(kept.get("layout", "4"));
