// A picture of the page's canvases alone: without the names of case, plans and tools, which stand beside them.
const button = document.getElementById("screenshot");
const main = document.querySelector("main");

export function compose() {
  const ratio = window.devicePixelRatio || 1, frame = main.getBoundingClientRect();
  const picture = document.createElement("canvas");
  picture.width = Math.round(frame.width * ratio);
  picture.height = Math.round(frame.height * ratio);
  const pen = picture.getContext("2d");
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, picture.width, picture.height);
  pen.scale(ratio, ratio);
  for (const canvas of main.querySelectorAll("canvas")) {
    const box = canvas.getBoundingClientRect();
    if (box.width && box.height) pen.drawImage(canvas, box.left - frame.left, box.top - frame.top, box.width, box.height);
  }
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
