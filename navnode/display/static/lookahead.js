// How far ahead of its tip a tool's axis is drawn: the viewer's choice.
import { kept } from "./dom.js";
import { minus, plus, unit } from "./vectors.js";

const LENGTHS_MM = ["0", "20", "40", "80", "120"];
const choice = document.getElementById("ahead");
const before = kept.get("ahead", "80");

choice.append(...LENGTHS_MM.map((mm) => new Option(`${mm} mm`, mm)));
choice.value = LENGTHS_MM.includes(before) ? before : "80";
choice.addEventListener("change", () => kept.set("ahead", choice.value));

// Back, tip, and as far ahead of the tip as the viewer wants, mm.
export function lineOf({ back_mm, tip_mm, ahead_mm }) {
  return [back_mm, tip_mm, plus(tip_mm, unit(minus(ahead_mm, tip_mm)), Number(choice.value))];
}
