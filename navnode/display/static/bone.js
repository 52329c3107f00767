// Bone, tools and plans in 3-D, with a cube that says which way the patient lies.
import { program, remove, upload } from "./gl.js";
import { text } from "./marks.js";
import { cross, dot, lookAt, minus, orbit, perspective, plus, unit } from "./vectors.js";

const VERTEX = `#version 300 es
layout(location=0) in vec3 position; layout(location=1) in vec3 normal;
uniform mat4 view, projection; out vec3 n; out float depth;
void main() {
  vec4 eye = view * vec4(position, 1.0);
  n = mat3(view) * normal; depth = -eye.z; gl_Position = projection * eye;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
uniform vec3 colour; in vec3 n; in float depth; out vec4 shade;
void main() {
  float light = 0.25 + 0.75 * abs(normalize(n).z);
  shade = vec4(colour * light * clamp(1.6 - depth / 900.0, 0.35, 1.0), 1.0);
}`;
const FIELD_RAD = 0.7;
const SIDES = 10;
const TOOL = [1.0, 0.82, 0.0], AHEAD = [1.0, 0.45, 0.1], PLAN = [0.36, 0.78, 1.0], OTHER_PLAN = [0.4, 0.5, 0.6], BONE = [0.87, 0.82, 0.72];
const CUBE_PX = 26;
const STEEP = Math.PI / 2 - 1e-3; // Straight from above, left and right would be open.
// Side -> turn and tilt of the camera; from head and feet, the patient's front is at the top.
export const FROM = {
  A: [0, 0], P: [Math.PI, 0], R: [Math.PI / 2, 0], L: [-Math.PI / 2, 0], S: [Math.PI, STEEP], I: [0, -STEEP],
};
const FACES = [["R", [1, 0, 0]], ["L", [-1, 0, 0]], ["A", [0, 1, 0]], ["P", [0, -1, 0]], ["S", [0, 0, 1]], ["I", [0, 0, -1]]];

const DASH_MM = 8; // As long as the gap that follows: how a tool in doubt looks.

// Pieces of the way from a tip to its far end, mm.
function dashes(tip, back) {
  const length = Math.hypot(...minus(back, tip)), along = unit(minus(back, tip));
  const pieces = [];
  for (let at = 0; at < length; at += 2 * DASH_MM) pieces.push([plus(tip, along, at), plus(tip, along, Math.min(length, at + DASH_MM))]);
  return pieces;
}

export class Bone {
  constructor(pane, gl) {
    Object.assign(this, { pane, gl, meshes: {} });
    this.program = program(gl, VERTEX, FRAGMENT);
    this.rod = rod(gl);
    this.reset();
    pane.addEventListener("pointerdown", (event) => event.target === pane && pane.setPointerCapture(event.pointerId));
    pane.addEventListener("pointermove", (event) => event.buttons === 1 && event.target === pane && this.roll(event.movementX, event.movementY));
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.nearer(Math.exp(event.deltaY * 0.001));
    }, { passive: false });
    this.faces = [...pane.querySelectorAll("[data-from]")];
    for (const button of this.faces) button.addEventListener("click", () => this.from(button.dataset.from));
    pane.addEventListener("keydown", (event) => {
      if (event.target !== pane) return;
      const turns = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] };
      if (turns[event.key]) this.roll(...turns[event.key]);
      else if (event.key === "+" || event.key === "-") this.nearer(event.key === "+" ? 0.9 : 1 / 0.9);
      else if (event.key === "0") this.reset();
      else if (this.oriented && event.key.toUpperCase() in FROM) this.from(event.key.toUpperCase());
      else return;
      event.preventDefault();
    });
  }

  reset() {
    this.turn = [2.5, 0.3];
    this.distance = 620;
  }

  // Seen from one of the patient's sides.
  from(side) {
    this.turn = [...FROM[side]];
  }

  roll(dx, dy) {
    this.turn = [this.turn[0] + dx * 0.008, Math.max(-STEEP, Math.min(STEEP, this.turn[1] + dy * 0.008))];
  }

  nearer(factor) {
    this.distance = Math.max(150, Math.min(1500, this.distance * factor));
  }

  setMesh(role, positions, normals, triangles) {
    this.forget(role);
    this.meshes[role] = upload(this.gl, positions, normals, triangles);
  }

  forget(role) {
    if (this.meshes[role]) remove(this.gl, this.meshes[role]);
    delete this.meshes[role];
  }

  // `box`: of the pane on the canvas, GL px; `tools`: each with its line, [back, tip, ahead] mm, and its validity.
  draw(box, center, mesh, tools, plans) {
    const { gl } = this;
    const { handle, at } = this.program;
    gl.viewport(...box);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(handle);
    gl.uniformMatrix4fv(at("view"), false, lookAt(center, orbit(this.turn), this.distance));
    gl.uniformMatrix4fv(at("projection"), false, perspective(FIELD_RAD, box[2] / box[3], 20, 3000));
    if (mesh) {
      gl.uniform3fv(at("colour"), BONE);
      gl.bindVertexArray(mesh.array);
      gl.drawElements(gl.TRIANGLES, mesh.count, gl.UNSIGNED_INT, 0);
    }
    for (const { line: [back, tip, ahead], validity } of tools) {
      const pieces = validity.status === "VALID" ? [[back, tip]] : dashes(tip, back);
      for (const [from, to] of pieces) this.drawRod(from, to, 2.2, TOOL);
      this.drawRod(tip, ahead, 0.8, AHEAD);
    }
    for (const { entry_mm, target_mm, active } of plans) {
      this.drawRod(entry_mm, target_mm, active ? 1.4 : 0.8, active ? PLAN : OTHER_PLAN);
      const along = unit(minus(target_mm, entry_mm));
      this.drawRod(plus(target_mm, along, -2), plus(target_mm, along, 2), 4, active ? PLAN : OTHER_PLAN);
    }
    gl.bindVertexArray(null);
  }

  // The cube, in the upper left corner of the pane: what is not shown is said at the bottom.
  mark(pen, [x, y], oriented) {
    if (this.oriented !== oriented) for (const button of this.faces) button.hidden = !oriented;
    this.oriented = oriented;
    if (!oriented) return;
    const { right, up, back } = orbit(this.turn);
    const middle = [x + 2 * CUBE_PX, y + 2 * CUBE_PX];
    const flat = (point) => [middle[0] + CUBE_PX * dot(point, right), middle[1] - CUBE_PX * dot(point, up)];
    for (const [letter, out] of FACES) {
      if (dot(out, back) <= 0.05) continue;
      const first = unit(cross(out, Math.abs(out[2]) < 0.9 ? [0, 0, 1] : [0, 1, 0])), second = cross(out, first);
      pen.beginPath();
      for (const [a, b] of [[1, 1], [1, -1], [-1, -1], [-1, 1]]) pen.lineTo(...flat(plus(plus(out, first, a), second, b)));
      pen.closePath();
      pen.fillStyle = "#1d2a35";
      pen.fill();
      pen.strokeStyle = "#9fb4c4";
      pen.lineWidth = 1.5;
      pen.stroke();
      if (dot(out, back) > 0.25) text(pen, letter, flat(out), { size: 20, align: "center", bold: true });
    }
  }

  drawRod(from, to, radius, colour) {
    const { gl } = this;
    if (Math.hypot(...minus(to, from)) < 1e-6) return;
    gl.uniform3fv(this.program.at("colour"), colour);
    const vertices = new Float32Array(SIDES * 4 * 3), normals = new Float32Array(vertices.length);
    const axis = unit(minus(to, from));
    const first = unit(cross(axis, Math.abs(axis[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0])), second = cross(axis, first);
    for (let side = 0; side < SIDES; side++) {
      const angle = (2 * Math.PI * side) / SIDES;
      const n = first.map((value, a) => value * Math.cos(angle) + second[a] * Math.sin(angle));
      [from, to].forEach((end, row) => {
        const at = (side * 2 + row) * 3;
        end.forEach((value, a) => { vertices[at + a] = value + radius * n[a]; normals[at + a] = n[a]; });
      });
    }
    gl.bindVertexArray(this.rod.array);
    [vertices, normals].forEach((data, place) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.rod.buffers[place]);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    });
    gl.drawElements(gl.TRIANGLES, this.rod.count, gl.UNSIGNED_INT, 0);
  }
}

function rod(gl) {
  const triangles = new Uint32Array(SIDES * 6);
  for (let side = 0; side < SIDES; side++) {
    const a = side * 2, b = ((side + 1) % SIDES) * 2;
    triangles.set([a, b, a + 1, b, b + 1, a + 1], side * 6);
  }
  const nothing = new Float32Array(SIDES * 12);
  return upload(gl, nothing, nothing, triangles);
}
