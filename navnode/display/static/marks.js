// What is drawn over pictures: tools, plans, letters, scale bars. All lengths are CSS pixels.
export const COLOURS = { VALID: "#ffd200", DEGRADED: "#f2b134" };
export const PLAN = "#5cc8ff", OTHER_PLAN = "#6d8aa0", CROSSHAIR = "rgba(90,209,200,.75)", MEASURE = "#ff9df5";
const FONT = 'system-ui, "DejaVu Sans", sans-serif';
const NICE_MM = [1, 2, 5, 10, 20, 50, 100, 200];

export function line(pen, a, b, colour, width, dash = []) {
  pen.setLineDash(dash);
  pen.beginPath();
  pen.moveTo(...a);
  pen.lineTo(...b);
  outlined(pen, colour, width);
  pen.setLineDash([]);
}

export function ring(pen, at, radius, colour, width = 2) {
  pen.beginPath();
  pen.arc(...at, radius, 0, 2 * Math.PI);
  outlined(pen, colour, width);
}

export function triangle(pen, [x, y], size, colour, width = 2) {
  pen.beginPath();
  for (const [dx, dy] of [[0, -1], [0.87, 0.5], [-0.87, 0.5]]) pen.lineTo(x + dx * size, y + dy * size);
  pen.closePath();
  outlined(pen, colour, width);
}

// The path in a colour, with a dark edge.
function outlined(pen, colour, width) {
  for (const [style, wide] of [["rgba(0,0,0,.7)", width + 2.4], [colour, width]]) {
    pen.strokeStyle = style;
    pen.lineWidth = wide;
    pen.stroke();
  }
}

export function cross(pen, at, size, colour, width = 2) {
  line(pen, [at[0] - size, at[1] - size], [at[0] + size, at[1] + size], colour, width);
  line(pen, [at[0] - size, at[1] + size], [at[0] + size, at[1] - size], colour, width);
}

export function text(pen, words, [x, y], { size = 14, align = "left", colour = "#fff", bold = false } = {}) {
  pen.font = `${bold ? 700 : 400} ${size}px ${FONT}`;
  pen.textAlign = align;
  pen.textBaseline = "middle";
  pen.lineJoin = "round";
  pen.lineWidth = 4;
  pen.strokeStyle = "rgba(0,0,0,.85)";
  pen.strokeText(words, x, y);
  pen.fillStyle = colour;
  pen.fillText(words, x, y);
}

// Which way the patient lies: at the left, right, top and bottom of a box.
export function letters(pen, [x, y, w, h], [left, right, top, bottom], below = 18) {
  const size = Math.max(16, Math.min(26, Math.min(w, h) / 13));
  const style = { size, align: "center", bold: true };
  text(pen, left, [x + size * 0.8, y + h / 2], style);
  text(pen, right, [x + w - size * 0.8, y + h / 2], style);
  text(pen, top, [x + w / 2, y + below], style);
  text(pen, bottom, [x + w / 2, y + h - 18], style);
}

export function scaleBar(pen, [x, y, w, h], mmPerPx) {
  const mm = NICE_MM.findLast((each) => each / mmPerPx <= w / 3) ?? NICE_MM[0];
  const length = mm / mmPerPx, [left, level] = [x + 14, y + h - 14];
  line(pen, [left, level], [left + length, level], "#fff", 2);
  for (const end of [left, left + length]) line(pen, [end, level - 5], [end, level + 5], "#fff", 2);
  text(pen, `${mm} mm`, [left, level - 16], { size: 13 });
}

// A tool; one on a picture that is not live is thin and dashed, lest an old shadow and it look like two drills. One in
// doubt has long dashes and a triangle at its tip: colour alone does not tell.
export function tool(pen, [back, tip, ahead], status, live = true) {
  const colour = COLOURS[status], certain = status === "VALID";
  line(pen, back, tip, colour, live ? 2.4 : 1.2, live ? (certain ? [] : [14, 6]) : [4, 5]);
  if (ahead) line(pen, tip, ahead, colour, live ? 1.6 : 0.9, live ? [7, 6] : [1, 5]);
  (certain ? ring : triangle)(pen, tip, certain ? 5 : 9, colour, live ? 2 : 1.2);
}

// A plan: a ring where it enters, a filled diamond at its target.
// One that lies beside the slice is a shadow of itself.
export function plan(pen, [entry, target], active, beside = false) {
  const colour = active ? PLAN : OTHER_PLAN;
  pen.globalAlpha = beside ? 0.45 : 1;
  line(pen, entry, target, colour, active ? 2.4 : 1.2, beside ? [3, 5] : []);
  ring(pen, entry, 6, colour);
  pen.beginPath();
  [[0, -7], [7, 0], [0, 7], [-7, 0]].forEach(([dx, dy]) => pen.lineTo(target[0] + dx, target[1] + dy));
  pen.closePath();
  pen.fillStyle = colour;
  pen.fill();
  pen.strokeStyle = "#000";
  pen.lineWidth = 1;
  pen.stroke();
  pen.globalAlpha = 1;
}
