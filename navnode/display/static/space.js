// Three slices through the volume at the tool's tip, and the bone in 3-D, in the quarters of one WebGL2 canvas.
// World coordinates are RAS mm; slices follow the radiological convention (patient right on the left).
const PLANES = [
  { name: "axial", right: [-1, 0, 0], up: [0, 1, 0], labels: ["R", "L", "A", "P"] },
  { name: "coronal", right: [-1, 0, 0], up: [0, 0, 1], labels: ["R", "L", "S", "I"] },
  { name: "sagittal", right: [0, 1, 0], up: [0, 0, 1], labels: ["P", "A", "S", "I"] },
];
// Without a CT the patient's sides are unknown: no letters, and no names of planes.
const unnamed = (index) => ({ name: `slice ${index + 1}`, labels: ["", "", "", ""] });
const SLICE_MM = 220;
const COLOURS = { VALID: "#ffd200", DEGRADED: "#f2b134" };

const SLICE_VERTEX = `#version 300 es
uniform vec3 center, right, up; uniform mat4 index_from_volume; uniform vec3 size;
const vec2 corners[4] = vec2[4](vec2(-1,-1), vec2(1,-1), vec2(-1,1), vec2(1,1));
out vec3 at;
void main() {
  vec2 c = corners[gl_VertexID];
  vec3 index = (index_from_volume * vec4(center + c.x * right + c.y * up, 1.0)).xyz;
  at = (index + 0.5) / size;
  gl_Position = vec4(c, 0.0, 1.0);
}`;
const SLICE_FRAGMENT = `#version 300 es
precision highp float; precision highp sampler3D;
uniform sampler3D volume; in vec3 at; out vec4 colour;
void main() {
  bool inside = all(greaterThanEqual(at, vec3(0.0))) && all(lessThanEqual(at, vec3(1.0)));
  colour = vec4(vec3(inside ? texture(volume, at).r : 0.0), 1.0);
}`;
const MESH_VERTEX = `#version 300 es
layout(location=0) in vec3 position; layout(location=1) in vec3 normal;
uniform mat4 view, projection; out vec3 n; out float depth;
void main() {
  vec4 eye = view * vec4(position, 1.0);
  n = mat3(view) * normal; depth = -eye.z; gl_Position = projection * eye;
}`;
const MESH_FRAGMENT = `#version 300 es
precision highp float;
uniform vec3 colour; in vec3 n; in float depth; out vec4 shade;
void main() {
  float light = 0.25 + 0.75 * abs(normalize(n).z);
  shade = vec4(colour * light * clamp(1.6 - depth / 900.0, 0.35, 1.0), 1.0);
}`;

export class Space {
  constructor(section) {
    this.canvas = section.querySelector("#gl");
    this.marks = section.querySelector("#marks");
    this.why = section.querySelector("#space-why");
    this.choice = section.querySelector("#choice");
    this.role = "navigation";
    this.volumes = {};
    this.meshes = {};
    this.center = null;
    this.turn = [2.5, 0.3];
    this.distance = 620;
    const gl = (this.gl = this.canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true }));
    if (!gl) {
      this.why.textContent = "This browser has no WebGL2: slices and bone cannot be shown.";
      return;
    }
    this.slice = program(gl, SLICE_VERTEX, SLICE_FRAGMENT);
    this.mesh = program(gl, MESH_VERTEX, MESH_FRAGMENT);
    this.tool = cylinder(gl);
    this.choice.addEventListener("click", ({ target }) => target.dataset.role && this.choose(target.dataset.role));
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.buttons !== 1) return;
      this.turn[0] += event.movementX * 0.008;
      this.turn[1] = Math.max(-1.5, Math.min(1.5, this.turn[1] + event.movementY * 0.008));
    });
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.distance = Math.max(150, Math.min(1500, this.distance * Math.exp(event.deltaY * 0.001)));
    }, { passive: false });
  }

  choose(role) {
    this.role = role;
    for (const button of this.choice.children) button.setAttribute("aria-pressed", button.dataset.role === role);
  }

  setVolume(head, voxels) {
    const { gl } = this;
    if (!gl) return;
    const old = this.volumes[head.role];
    if (old) gl.deleteTexture(old.texture);
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_3D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage3D(gl.TEXTURE_3D, 0, gl.R8, ...head.size, 0, gl.RED, gl.UNSIGNED_BYTE, voxels);
    for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) gl.texParameteri(gl.TEXTURE_3D, axis, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_3D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.texParameteri(gl.TEXTURE_3D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
    this.volumes[head.role] = { ...head, texture };
    if (head.role === "navigation") this.center ??= head.center_mm;
    this.choice.hidden = !(this.volumes.navigation && this.volumes.reconstruction);
  }

  setMesh(head, positions, normals, triangles) {
    const { gl } = this;
    if (!gl) return;
    const old = this.meshes[head.role];
    if (old) {
      old.buffers.forEach((buffer) => gl.deleteBuffer(buffer));
      gl.deleteVertexArray(old.array);
    }
    this.meshes[head.role] = upload(gl, positions, normals, triangles);
  }

  // The node withdrew this volume or surface.
  forget({ of, role }) {
    if (of === "volume") {
      if (this.volumes[role]) this.gl?.deleteTexture(this.volumes[role].texture);
      delete this.volumes[role];
    } else {
      this.meshes[role]?.buffers.forEach((buffer) => this.gl?.deleteBuffer(buffer));
      delete this.meshes[role];
    }
  }

  draw(scene) {
    const { gl, canvas, marks } = this;
    if (!gl) return;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    for (const c of [canvas, marks]) if (c.width !== width || c.height !== height) Object.assign(c, { width, height });
    const w = width >> 1, h = height >> 1;
    const placed = scene.tools.filter((t) => t.tip_mm);
    const tool = placed.find((t) => t.name === scene.state?.active_tool) ?? placed[0];
    if (tool) this.center = tool.tip_mm;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.02, 0.025, 0.03, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const pen = marks.getContext("2d");
    pen.clearRect(0, 0, width, height);
    const volume = this.volumes[this.role] ?? this.volumes.navigation;
    // GL's y axis starts at the bottom, that of the marks at the top.
    const places = [[0, 0], [w, 0], [0, h]];
    PLANES.forEach((plane, index) => {
      const [x, y] = places[index];
      const scale = SLICE_MM / 2 / Math.min(w, h);
      if (volume && this.center) this.drawSlice(volume, plane, [x, height - y - h, w, h], scale);
      this.markSlice(pen, plane, [x, y, w, h], scale, tool, ratio, scene.oriented ? plane : unnamed(index));
    });
    this.drawBone(scene, [w, 0, w, h]);
    label(pen, "bone", w + 8 * ratio, h + 18 * ratio, ratio);
    pen.fillStyle = "#26303a";
    pen.fillRect(w - 1, 0, 2, height);
    pen.fillRect(0, h - 1, width, 2);
    this.explain(scene, volume, tool);
  }

  explain(scene, volume, tool) {
    const lost = scene.tools.filter((t) => t.validity.status === "INVALID").map((t) => `${t.name} not shown: ${t.validity.reason}`);
    const doubtful = volume && volume.validity.status === "DEGRADED" ? volume.validity.reason : "";
    this.why.textContent = !volume ? "no volume yet" : lost.join(" · ") || (tool?.validity.status === "DEGRADED" ? tool.validity.reason : doubtful);
    this.why.className = `why ${volume && !lost.length ? "DEGRADED" : ""}`;
  }

  drawSlice(volume, plane, box, scale) {
    const { gl } = this;
    const { handle, at } = this.slice;
    gl.viewport(...box);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(handle);
    gl.uniform3fv(at("center"), this.center);
    gl.uniform3fv(at("right"), plane.right.map((x) => x * scale * box[2]));
    gl.uniform3fv(at("up"), plane.up.map((x) => x * scale * box[3]));
    gl.uniformMatrix4fv(at("index_from_volume"), true, volume.index_from_volume);
    gl.uniform3fv(at("size"), volume.size);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_3D, volume.texture);
    gl.uniform1i(at("volume"), 0);
    gl.bindVertexArray(null);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  markSlice(pen, plane, [x, y, w, h], scale, tool, ratio, { name, labels }) {
    pen.save();
    pen.beginPath();
    pen.rect(x, y, w, h);
    pen.clip();
    label(pen, name, x + 8 * ratio, y + 18 * ratio, ratio);
    const [l, r, t, b] = labels;
    pen.fillStyle = "#8b9aa6";
    for (const [text, px, py] of [[l, x + 8 * ratio, y + h / 2], [r, x + w - 16 * ratio, y + h / 2], [t, x + w / 2, y + 18 * ratio], [b, x + w / 2, y + h - 8 * ratio]]) pen.fillText(text, px, py);
    if (tool && this.center) {
      const flat = (p) => {
        const d = p.map((value, axis) => value - this.center[axis]);
        return [x + w / 2 + dot(d, plane.right) / (2 * scale), y + h / 2 - dot(d, plane.up) / (2 * scale)];
      };
      const [back, tip, ahead] = [tool.back_mm, tool.tip_mm, tool.ahead_mm].map(flat);
      pen.strokeStyle = COLOURS[tool.validity.status];
      pen.lineWidth = 2 * ratio;
      stroke(pen, back, tip, []);
      stroke(pen, tip, ahead, [6 * ratio, 5 * ratio]);
      pen.lineWidth = ratio;
      pen.strokeStyle = "rgba(90,209,200,.75)";
      stroke(pen, [tip[0] - 14 * ratio, tip[1]], [tip[0] + 14 * ratio, tip[1]], []);
      stroke(pen, [tip[0], tip[1] - 14 * ratio], [tip[0], tip[1] + 14 * ratio], []);
    }
    pen.restore();
  }

  drawBone(scene, box) {
    const { gl } = this;
    const mesh = this.meshes[this.role] ?? this.meshes.navigation;
    const center = (this.volumes[this.role] ?? this.volumes.navigation)?.center_mm;
    if (!center) return;
    gl.viewport(...box);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(this.mesh.handle);
    const { at } = this.mesh;
    gl.uniformMatrix4fv(at("view"), false, orbit(center, this.turn, this.distance));
    gl.uniformMatrix4fv(at("projection"), false, perspective(0.7, box[2] / box[3], 20, 3000));
    if (mesh) {
      gl.uniform3f(at("colour"), 0.87, 0.82, 0.72);
      gl.bindVertexArray(mesh.array);
      gl.drawElements(gl.TRIANGLES, mesh.count, gl.UNSIGNED_INT, 0);
    }
    for (const tool of scene.tools) {
      if (!tool.tip_mm) continue;
      gl.uniform3f(at("colour"), 1.0, 0.82, 0.0);
      this.drawTool(tool.back_mm, tool.tip_mm, 2.2);
      gl.uniform3f(at("colour"), 1.0, 0.45, 0.1);
      this.drawTool(tool.tip_mm, tool.ahead_mm, 0.8);
    }
    gl.bindVertexArray(null);
  }

  drawTool(from, to, radius) {
    const { gl } = this;
    const vertices = new Float32Array(this.tool.sides * 4 * 3), normals = new Float32Array(vertices.length);
    const axis = unit(to.map((value, a) => value - from[a]));
    const first = unit(cross(axis, Math.abs(axis[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0])), second = cross(axis, first);
    for (let side = 0; side < this.tool.sides; side++) {
      const angle = (2 * Math.PI * side) / this.tool.sides;
      const n = first.map((value, a) => value * Math.cos(angle) + second[a] * Math.sin(angle));
      [from, to].forEach((end, row) => {
        const at = (side * 2 + row) * 3;
        end.forEach((value, a) => { vertices[at + a] = value + radius * n[a]; normals[at + a] = n[a]; });
      });
    }
    gl.bindVertexArray(this.tool.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.tool.buffers[0]);
    gl.bufferData(gl.ARRAY_BUFFER, vertices, gl.DYNAMIC_DRAW);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.tool.buffers[1]);
    gl.bufferData(gl.ARRAY_BUFFER, normals, gl.DYNAMIC_DRAW);
    gl.drawElements(gl.TRIANGLES, this.tool.count, gl.UNSIGNED_INT, 0);
  }
}

function label(pen, text, x, y, ratio) {
  pen.font = `${12 * ratio}px system-ui, sans-serif`;
  pen.fillStyle = "#dbe4ea";
  pen.fillText(text, x, y);
}

function stroke(pen, a, b, dash) {
  pen.setLineDash(dash);
  pen.beginPath();
  pen.moveTo(...a);
  pen.lineTo(...b);
  pen.stroke();
  pen.setLineDash([]);
}

function program(gl, vertex, fragment) {
  const handle = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(handle, shader);
  }
  gl.linkProgram(handle);
  const known = {};
  return { handle, at: (name) => (known[name] ??= gl.getUniformLocation(handle, name)) };
}

function upload(gl, positions, normals, triangles) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  const buffers = [positions, normals].map((data, location) => {
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, 3, gl.FLOAT, false, 0, 0);
    return buffer;
  });
  const elements = gl.createBuffer();
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, elements);
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STATIC_DRAW);
  gl.bindVertexArray(null);
  return { array, buffers: [...buffers, elements], count: triangles.length };
}

function cylinder(gl) {
  const sides = 10;
  const triangles = new Uint32Array(sides * 6);
  for (let side = 0; side < sides; side++) {
    const a = side * 2, b = ((side + 1) % sides) * 2;
    triangles.set([a, b, a + 1, b, b + 1, a + 1], side * 6);
  }
  const nothing = new Float32Array(sides * 12);
  return { ...upload(gl, nothing, nothing, triangles), sides };
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((x) => x / Math.hypot(...a));

// Column-major 4x4: looks at `center`, at first from the patient's back, with superior up.
function orbit(center, [turn, tilt], distance) {
  const back = [Math.sin(turn) * Math.cos(tilt), Math.cos(turn) * Math.cos(tilt), Math.sin(tilt)];
  const right = unit(cross([0, 0, 1], back)), up = cross(back, right);
  const eye = center.map((value, a) => value + distance * back[a]);
  return new Float32Array([
    right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
    -dot(right, eye), -dot(up, eye), -dot(back, eye), 1,
  ]);
}

function perspective(field, aspect, near, far) {
  const f = 1 / Math.tan(field / 2);
  return new Float32Array([f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0]);
}
