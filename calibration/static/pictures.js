// What to do, drawn: one picture for each measurement. Each part is [class, path]; a dot is [class, x, y, radius].
const CARM = [["", "M60 20 A46 46 0 1 0 60 100"], ["", "M52 12 h22 v14 h-22 z"], ["", "M46 94 h34 v10 h-34 z"]];
const BEAM = [["beam", "M62 28 L50 92"], ["beam", "M64 28 L76 92"]];
const PHANTOM = [["", "M54 52 h18 v18 h-18 z"], ["bead", 58, 56, 1.6], ["bead", 66, 60, 1.6], ["bead", 60, 66, 1.6], ["bead", 69, 67, 1.6]];

const PICTURES = {
  tip: [
    ["", "M60 104 h30 l10 -8 l10 8 h30"], ["tool", "M100 96 L100 18"], ["beam", "M100 96 L62 26"], ["beam", "M100 96 L138 26"],
    ["move", "M66 20 A80 80 0 0 1 134 20"], ["move", "M72 12 L66 20 L75 24"], ["move", "M128 12 L134 20 L125 24"],
    ["tool", "M92 18 h16"], ["dot", 92, 14, 4], ["dot", 108, 14, 4], ["dot", 100, 8, 4],
  ],
  axis: [
    ["tool", "M40 60 L160 60"], ["tool", "M160 60 l-10 -5 v10 z"], ["", "M62 44 v32"], ["", "M84 44 v32"], ["dot", 46, 48, 4], ["dot", 46, 72, 4],
    ["move", "M120 38 A12 22 0 1 1 119 82"], ["move", "M113 76 L119 82 L126 77"],
  ],
  shots: [
    ...CARM, ...BEAM, ...PHANTOM, ["move", "M120 26 A60 60 0 0 1 120 94"], ["move", "M113 33 L120 26 L127 33"], ["move", "M113 87 L120 94 L127 87"],
    ["", "M150 40 h24 v18 h-24 z"], ["", "M156 48 h24 v18 h-24 z"], ["", "M162 56 h24 v18 h-24 z"], ["bead", 174, 65, 2],
  ],
  sweep: [
    ...CARM, ...BEAM, ...PHANTOM, ["move", "M104 60 C118 44 124 76 138 60 S158 50 176 60"], ["move", "M110 54 L104 60 L111 64"], ["move", "M169 54 L176 60 L169 65"],
  ],
  flat: [...CARM, ...BEAM, ["", "M120 34 h30 v22 h-30 z"], ["", "M120 64 h30 v22 h-30 z"], ["bead", 135, 45, 9]],
  points: [
    ["", "M30 86 C44 54 84 46 118 56 S170 70 180 90"], ["dot", 58, 64, 4], ["dot", 92, 53, 4], ["dot", 128, 59, 4], ["dot", 160, 74, 4],
    ["tool", "M92 50 L116 12"], ["tool", "M110 10 l10 7"], ["move", "M98 40 C108 44 120 48 126 54"],
  ],
  targets: [
    ["", "M50 36 h100 v64 h-100 z"], ["bead", 70, 56, 4], ["bead", 100, 80, 4], ["bead", 128, 52, 4], ["bead", 84, 88, 4],
    ["tool", "M128 50 L150 10"], ["tool", "M144 8 l10 7"],
  ],
  spheres: [
    ["tool", "M60 90 L60 50 L30 26"], ["tool", "M60 50 L96 34"], ["dot", 60, 92, 6], ["dot", 28, 24, 6], ["dot", 98, 32, 6], ["dot", 60, 50, 6],
    ["", "M150 44 h34 v26 h-34 z"], ["beam", "M148 50 L104 34"], ["beam", "M148 64 L68 90"],
  ],
};
const SVG = "http://www.w3.org/2000/svg";

export function shape(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

export function drawPicture(target, measurement) {
  if (target.dataset.shows === measurement) return;
  target.dataset.shows = measurement;
  target.replaceChildren(...(PICTURES[measurement] ?? []).map(([kind, path, y, r]) => (
    y === undefined ? shape("path", { class: kind, d: path }) : shape("circle", { class: kind, cx: path, cy: y, r })
  )));
}

// Directions of a tool about their mean; the dashed ring is the tilt that is needed.
function directions(places, needed) {
  const widest = Math.max(30, needed * 1.1, ...places.map(([x, y]) => Math.hypot(x, y)));
  const scale = 108 / widest;
  const rings = [10, 20, 30, 45, 60, 90].filter((ring) => ring <= widest).flatMap((ring) => [
    shape("circle", { class: "ring", r: ring * scale }), shape("text", { x: 2, y: -ring * scale - 2 }, `${ring}°`),
  ]);
  const pass = shape("circle", { class: "ring pass", r: needed * scale });
  return [...rings, pass, ...places.map(([x, y, used]) => (
    shape("circle", { class: used ? "used" : "out", cx: x * scale, cy: -y * scale, r: 2.2 })
  ))];
}

// Positions of a C-arm: orbital angle to the right, angulation up.
function angles(places) {
  const ticks = (values) => {
    const low = Math.floor((Math.min(0, ...values) - 5) / 30) * 30;
    return [low, Math.max(low + 30, Math.ceil((Math.max(0, ...values) + 5) / 30) * 30)];
  };
  const [left, right] = ticks(places.map(([x]) => x));
  const [low, high] = ticks(places.map(([, y]) => y));
  const at = (x, y) => [-96 + (204 * (x - left)) / (right - left), 96 - (196 * (y - low)) / (high - low)];
  const parts = [];
  for (let x = left; x <= right; x += 30) {
    parts.push(shape("path", { class: "ring", d: `M${at(x, low)} L${at(x, high)}` }));
    parts.push(shape("text", { x: at(x, low)[0], y: 109, "text-anchor": "middle" }, `${x}°`));
  }
  for (let y = low; y <= high; y += 30) {
    parts.push(shape("path", { class: "ring", d: `M${at(left, y)} L${at(right, y)}` }));
    parts.push(shape("text", { x: -100, y: at(left, y)[1] + 3, "text-anchor": "end" }, `${y}°`));
  }
  return [...parts, ...places.map(([x, y]) => shape("circle", { class: "used", cx: at(x, y)[0], cy: at(x, y)[1], r: 3.5 }))];
}

export function drawCoverage(target, { kind, places }, needed, label) {
  const shown = ["directions", "angles"].includes(kind) && places.length > 0;
  target.toggleAttribute("hidden", !shown); // SVG has no property of that name
  target.setAttribute("aria-label", label);
  if (shown) target.replaceChildren(...(kind === "directions" ? directions(places, needed) : angles(places)));
}
