// Bones in space, turned by dragging; colours are expected errors. WebGL 2, without libraries.
"use strict";
(() => {
  const canvas = document.getElementById("turning");
  const scene = JSON.parse(document.getElementById("bones").textContent);
  const gl = canvas.getContext("webgl2", { antialias: true });
  if (!gl) {
    canvas.replaceWith("This browser shows no 3-D graphics (WebGL 2); the surfaces are in the .stl and .ply files.");
    return;
  }
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const shader = (kind, source) => {
    const made = gl.createShader(kind);
    gl.shaderSource(made, source);
    gl.compileShader(made);
    return made;
  };
  const program = gl.createProgram();
  gl.attachShader(program, shader(gl.VERTEX_SHADER, `#version 300 es
    in vec3 at; in vec3 normal; in float error; uniform mat3 turn; uniform vec2 scale; uniform float far;
    out vec3 n; out float e;
    void main() { vec3 p = turn * at; n = turn * normal; e = error;
      gl_Position = vec4(p.xy * scale, p.z * far, 1.0); }`));
  gl.attachShader(program, shader(gl.FRAGMENT_SHADER, `#version 300 es
    precision mediump float; in vec3 n; in float e; out vec4 colour;
    void main() { vec3 low = vec3(.25,.70,.50), mid = vec3(.88,.76,.25), high = vec3(.76,.23,.20);
      vec3 c = e > 254.5 ? vec3(.7) : e < 127.0 ? mix(low, mid, e / 127.0) : mix(mid, high, (e - 127.0) / 127.0);
      vec3 m = normalize(n); float light = .3 + .7 * abs(dot(m, normalize(vec3(.3,.4,-.85))));
      colour = vec4(c * light, 1.0); }`));
  gl.linkProgram(program);
  gl.useProgram(program);
  const bind = (name, data, size) => {
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, gl.FLOAT, false, 0, 0);
  };
  const parts = scene.bones.map((bone) => {
    const at = Float32Array.from(new Int16Array(bytes(bone.at)), (q) => q * scene.step_mm);
    const index = bone.wide ? new Uint32Array(bytes(bone.triangles)) : new Uint16Array(bytes(bone.triangles));
    const normal = new Float32Array(at.length);
    for (let t = 0; t < index.length; t += 3) {
      const [a, b, c] = [3 * index[t], 3 * index[t + 1], 3 * index[t + 2]];
      const u = [0, 1, 2].map((k) => at[b + k] - at[a + k]), v = [0, 1, 2].map((k) => at[c + k] - at[a + k]);
      const w = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) normal[corner + k] += w[k];
    }
    const vao = gl.createVertexArray();
    gl.bindVertexArray(vao);
    bind("at", at, 3);
    bind("normal", normal, 3);
    bind("error", Float32Array.from(new Uint8Array(bytes(bone.error))), 1);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, index, gl.STATIC_DRAW);
    return { vao, count: index.length, type: bone.wide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT };
  });
  let yaw = 0.6, pitch = 0.15, zoom = 1;
  const uniform = (name) => gl.getUniformLocation(program, name);
  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.07, 0.086, 0.114, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    // From the front: the patient's left at the right, head up, depth away from the viewer.
    const x = [-cy, sy, 0], y = [-sy * sp, -cy * sp, cp], z = [-sy * cp, -cy * cp, -sp];
    gl.uniformMatrix3fv(uniform("turn"), false, [x[0], y[0], z[0], x[1], y[1], z[1], x[2], y[2], z[2]]);
    const s = 2 * zoom / scene.size_mm;
    gl.uniform2f(uniform("scale"), s * Math.min(1, canvas.height / canvas.width), s * Math.min(1, canvas.width / canvas.height));
    gl.uniform1f(uniform("far"), 1.9 / scene.size_mm);
    for (const part of parts) {
      gl.bindVertexArray(part.vao);
      gl.drawElements(gl.TRIANGLES, part.count, part.type, 0);
    }
  };
  let turning = true;
  canvas.addEventListener("pointerdown", (event) => { turning = false; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    yaw += event.movementX * 0.01;
    pitch = Math.max(-1.5, Math.min(1.5, pitch + event.movementY * 0.01));
    draw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom = Math.max(0.3, Math.min(8, zoom * Math.exp(-event.deltaY * 0.001)));
    draw();
  }, { passive: false });
  window.addEventListener("resize", draw);
  const step = () => { if (!turning) return; yaw += 0.008; draw(); requestAnimationFrame(step); };
  step();
})();
