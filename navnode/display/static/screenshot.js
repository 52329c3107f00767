// A picture of the page's canvases: without the names of case, plans and tools, which stand beside them, but with what
// says how far to trust it.
import { text } from "./marks.js";
import { say } from "./texts.js";

const FOOT_PX = 26;
const button = document.getElementById("screenshot");
const main = document.querySelector("main");

export function compose() {
  const ratio = window.devicePixelRatio || 1, frame = main.getBoundingClientRect();
  const picture = document.createElement("canvas");
  picture.width = Math.round(frame.width * ratio);
  picture.height = Math.round((frame.height + FOOT_PX) * ratio);
  const pen = picture.getContext("2d");
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, picture.width, picture.height);
  pen.scale(ratio, ratio);
  for (const canvas of main.querySelectorAll("canvas")) {
    const box = canvas.getBoundingClientRect();
    if (box.width && box.height) pen.drawImage(canvas, box.left - frame.left, box.top - frame.top, box.width, box.height);
  }
  for (const caption of main.querySelectorAll(".view figcaption span")) {
    const box = caption.getBoundingClientRect();
    text(pen, caption.textContent, [box.left - frame.left, (box.top + box.bottom) / 2 - frame.top], { size: 15 });
  }
  // Of a replay, where in it: its pictures are not of now.
  const replay = document.body.classList.contains("replay") ? [say("replay"), document.getElementById("replay-at").textContent] : [];
  const state = document.getElementById("state").textContent, time = `${new Date().toISOString().slice(0, 19)}Z`;
  text(pen, [...replay, state, time, say("notice")].join("  ·  "), [10, frame.height + FOOT_PX / 2], { size: 15 });
  return picture;
}

button.addEventListener("click", () => {
  compose().toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `navnode-${new Date().toISOString().slice(0, 19).replace(/[T:]/g, "-")}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "image/png");
});
