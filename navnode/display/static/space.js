// Three slices and the bone in 3-D: four panes over one WebGL2 canvas and one for marks.
// World coordinates are RAS mm; slices follow the radiological convention (patient right on the left).
import { explain } from "./advice.js";
import { Bone } from "./bone.js";
import { setClass, setText } from "./dom.js";
import { program, volumeTexture } from "./gl.js";
import { enlarge } from "./layout.js";
import { lineOf } from "./lookahead.js";
import { drawMeasured, forgetMeasured, measuring } from "./measure.js";
import * as marks from "./marks.js";
import * as pick from "./pick.js";
import { forgetPoints, shownPlans } from "./plans.js";
import { drawTouched, forgetTouched } from "./touch.js";
import { Slice } from "./slice.js";
import { say } from "./texts.js";
import { plus } from "./vectors.js";
import { grey } from "./window.js";

const BESIDE_MM = 2; // A plan that comes no nearer to a slice lies beside it.
const PLANES = {
  axial: { right: [-1, 0, 0], up: [0, 1, 0], letters: ["R", "L", "A", "P"] },
  coronal: { right: [-1, 0, 0], up: [0, 0, 1], letters: ["R", "L", "S", "I"] },
  sagittal: { right: [0, 1, 0], up: [0, 0, 1], letters: ["P", "A", "S", "I"] },
};
const VERTEX = `#version 300 es
uniform vec3 center, right, up; uniform mat4 index_from_volume; uniform vec3 size;
const vec2 corners[4] = vec2[4](vec2(-1,-1), vec2(1,-1), vec2(-1,1), vec2(1,1));
out vec3 at;
void main() {
  vec2 c = corners[gl_VertexID];
  vec3 index = (index_from_volume * vec4(center + c.x * right + c.y * up, 1.0)).xyz;
  at = (index + 0.5) / size;
  gl_Position = vec4(c, 0.0, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float; precision highp sampler3D;
uniform sampler3D volume; uniform vec2 window; in vec3 at; out vec4 colour;
void main() {
  bool inside = all(greaterThanEqual(at, vec3(0.0))) && all(lessThanEqual(at, vec3(1.0)));
  float hu = texture(volume, at).r;
  colour = vec4(vec3(inside ? clamp((hu - window.x) / (window.y - window.x), 0.0, 1.0) : 0.0), 1.0);
}`;

export class Space {
  constructor(section) {
    this.section = section;
    this.canvas = section.querySelector("#gl");
    this.marks = section.querySelector("#marks");
    this.why = section.querySelector("#space-why");
    this.choice = section.querySelector("#choice");
    this.followButton = document.getElementById("follow");
    this.role = "navigation";
    this.volumes = {};
    this.follows = true;
    const gl = (this.gl = this.canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true }));
    if (!gl) {
      setText(this.why, say("noWebgl"));
      return;
    }
    this.program = program(gl, VERTEX, FRAGMENT);
    const on = {
      click: (at_mm, slice) => this.click(at_mm, slice),
      twice: () => this.twice(),
      move: (at_mm) => this.moveTo(at_mm),
      through: (steps, slice) => this.moveTo(plus(slice.center, slice.through, steps * this.step)),
      level: (dx, dy) => grey.drag(dx, dy),
    };
    this.slices = Object.entries(PLANES).map(([name, { right, up, letters }]) =>
      new Slice(section.querySelector(`[data-pane=${name}]`), name, right, up, letters, on));
    this.bonePane = section.querySelector("[data-pane=bone]");
    this.bone = new Bone(this.bonePane, gl);
    this.choice.addEventListener("click", ({ target }) => target.dataset.role && this.choose(target.dataset.role));
    this.followButton.addEventListener("click", () => this.follow(!this.follows));
    this.follow(true);
    pick.begins(() => this.follow(false)); // Points are clicked on slices that stay.
  }

  get volume() {
    return this.volumes[this.role] ?? this.volumes.navigation;
  }

  // Between slices that lie beside each other, mm.
  get step() {
    return Math.max(0.5, Math.min(...(this.volume?.spacing_mm ?? [1])));
  }

  choose(role) {
    this.role = role;
    for (const button of this.choice.children) button.setAttribute("aria-pressed", button.dataset.role === role);
  }

  // The crosshair goes where the tool's tip is; otherwise it stays where it was put.
  follow(wanted) {
    this.follows = wanted;
    if (wanted) this.slices?.forEach((slice) => (slice.pan = [0, 0]));
    this.followButton.setAttribute("aria-pressed", wanted);
  }

  click(at_mm, slice) {
    const before = { follows: this.follows, slices: this.slices.map(({ center, pan }) => ({ center, pan })) };
    this.before = pick.take(at_mm, slice.name) ? null : before;
    if (this.before) this.moveTo(at_mm);
  }

  // A slice is enlarged, or is one of four again; the first click of the two has moved nothing then.
  twice() {
    if (!this.before) return; // It was an answer.
    this.follow(this.before.follows);
    this.slices.forEach((slice, place) => Object.assign(slice, this.before.slices[place]));
    this.before = null;
    enlarge();
  }

  moveTo(at_mm) {
    this.follow(false);
    for (const slice of this.slices) slice.moveCenter(at_mm, false);
  }

  setVolume(head, voxels) {
    const { gl } = this;
    if (!gl) return;
    const old = this.volumes[head.role];
    if (old) gl.deleteTexture(old.texture);
    this.volumes[head.role] = { ...head, texture: volumeTexture(gl, head.size, voxels) };
    if (head.role === "navigation" && !this.placed) {
      this.placed = true;
      // The same volume once more, as after a connection that broke: what was looked at, clicked and measured stays.
      if (head.digest !== this.digest) {
        this.forgetClicked();
        for (const slice of this.slices) {
          slice.reset();
          slice.moveCenter(head.center_mm, true);
        }
      }
    }
    if (head.role === "navigation") this.digest = head.digest;
    this.choice.hidden = !(this.volumes.navigation && this.volumes.reconstruction);
  }

  setMesh(head, ...parts) {
    this.bone?.setMesh(head.role, ...parts);
  }

  // Everything that `forget` would take away.
  get held() {
    const named = (of, held) => Object.keys(held ?? {}).map((role) => ({ of, role }));
    return [...named("volume", this.volumes), ...named("mesh", this.bone?.meshes)];
  }

  // The node withdrew this volume or surface: what was clicked on it is gone with it.
  withdraw(head) {
    this.forget(head);
    if (head.of !== "volume" || head.role !== "navigation") return;
    this.digest = null;
    this.forgetClicked();
  }

  forgetClicked() {
    forgetMeasured();
    forgetPoints();
    forgetTouched();
  }

  forget({ of, role }) {
    if (of === "mesh") this.bone?.forget(role);
    else {
      if (this.volumes[role]) this.gl?.deleteTexture(this.volumes[role].texture);
      delete this.volumes[role];
      if (role === "navigation") this.placed = false;
      this.choice.hidden = true;
    }
  }

  draw(scene) {
    const { gl, canvas, volume } = this;
    if (!gl) return;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    for (const c of [canvas, this.marks]) if (c.width !== width || c.height !== height) Object.assign(c, { width, height });
    const placed = scene.tools.filter((tool) => tool.tip_mm);
    // A tool that is lost is not replaced by another one: the slices stay where it was.
    const chosen = scene.state?.active_tool;
    const active = chosen ? placed.find(({ name }) => name === chosen) : placed[0];
    if (active && this.follows) for (const slice of this.slices) slice.moveCenter(active.tip_mm, true);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.02, 0.025, 0.03, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const pen = this.marks.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const tools = placed.map((tool) => ({ ...tool, line: lineOf(tool) })), plans = shownPlans(scene);
    for (const slice of this.slices) {
      const box = boxOf(slice.pane);
      if (!box[2]) continue;
      if (volume) this.drawSlice(volume, slice, glBox(box, ratio, height));
      this.markSlice(pen, slice, box, scene, active && tools.find(({ name }) => name === active.name), plans);
    }
    const box = boxOf(this.bonePane), center = this.volume?.center_mm;
    if (box[2] && center) {
      const mesh = this.bone.meshes[this.role] ?? this.bone.meshes.navigation;
      this.bone.draw(glBox(box, ratio, height), center, mesh, tools, plans);
      this.bone.mark(pen, box, scene.oriented);
    }
    this.explain(scene, volume);
  }

  explain(scene, volume) {
    const lost = scene.tools.filter((tool) => tool.validity.status === "INVALID").map(({ name }) => say("notShown", name));
    const doubtful = volume?.validity.status === "DEGRADED" ? volume.validity.reason : "";
    setText(this.why, volume ? lost.join(" · ") || doubtful : whyNoVolume(scene));
    setClass(this.why, `why ${volume && !lost.length ? "DEGRADED" : ""}`);
  }

  drawSlice(volume, slice, box) {
    const { gl } = this;
    const { handle, at } = this.program;
    const across = (size) => (slice.mmPerPx * size) / 2;
    gl.viewport(...box);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(handle);
    gl.uniform3fv(at("center"), slice.middle);
    gl.uniform3fv(at("right"), slice.right.map((x) => x * across(slice.pane.clientWidth)));
    gl.uniform3fv(at("up"), slice.up.map((x) => x * across(slice.pane.clientHeight)));
    gl.uniformMatrix4fv(at("index_from_volume"), true, volume.index_from_volume);
    gl.uniform3fv(at("size"), volume.size);
    gl.uniform2fv(at("window"), grey.range);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_3D, volume.texture);
    gl.uniform1i(at("volume"), 0);
    gl.bindVertexArray(null);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  markSlice(pen, slice, [x, y, w, h], scene, tool, plans) {
    pen.save();
    pen.beginPath();
    pen.rect(x, y, w, h);
    pen.clip();
    pen.translate(x, y);
    const center = slice.flat(slice.center);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.beginPath();
      pen.moveTo(center[0] + 9 * dx, center[1] + 9 * dy);
      pen.lineTo(center[0] + 4000 * dx, center[1] + 4000 * dy);
      pen.strokeStyle = marks.CROSSHAIR;
      pen.lineWidth = 1;
      pen.stroke();
    }
    for (const { entry_mm, target_mm, active } of plans) {
      const [from, to] = [entry_mm, target_mm].map((end) => slice.off(end));
      const beside = from * to > 0 && Math.min(Math.abs(from), Math.abs(to)) > BESIDE_MM;
      marks.plan(pen, [entry_mm, target_mm].map((end) => slice.flat(end)), active, beside);
    }
    if (tool) marks.tool(pen, tool.line.map((point) => slice.flat(point)), tool.validity.status);
    if (this.volumes.navigation) {
      drawMeasured(pen, slice);
      drawTouched(pen, slice);
    }
    for (const { at_mm } of pick.soFar()) marks.cross(pen, slice.flat(at_mm), 6, measuring() ? marks.MEASURE : marks.PLAN);
    marks.scaleBar(pen, [0, 0, w, h], slice.mmPerPx);
    // Without a CT the patient's sides are unknown: no letters, and no names of planes.
    if (scene.oriented) marks.letters(pen, [0, 0, w, h], slice.letters);
    marks.text(pen, scene.oriented ? say(slice.name) : say("slice", this.slices.indexOf(slice) + 1), [10, 18]);
    pen.restore();
  }
}

// What volume there will be, and what it waits for.
function whyNoVolume({ volume_from, state, registration }) {
  if (volume_from !== "xrays") return say({ ct: "noVolumeCt", bones: "noVolumeBones" }[volume_from] ?? "noConnection");
  if (state && !state.worker_alive) return say("noVolumeWorker");
  const { key, cause } = explain(registration.reason);
  return ["NoVolume", "Making", "Refused"].includes(key) ? cause : say("noVolumeXrays");
}

// Within its border: what is drawn and what is clicked are measured from there.
const boxOf = (pane) => [pane.offsetLeft + pane.clientLeft, pane.offsetTop + pane.clientTop, pane.clientWidth, pane.clientHeight];

// GL's y axis starts at the bottom, that of the page at the top.
const glBox = ([x, y, w, h], ratio, height) => [x * ratio, height - (y + h) * ratio, w * ratio, h * ratio].map(Math.round);
