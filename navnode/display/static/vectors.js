// Points and matrices in three dimensions, mm.
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const minus = (a, b) => a.map((value, axis) => value - b[axis]);
export const plus = (a, b, factor = 1) => a.map((value, axis) => value + factor * b[axis]);
export const unit = (a) => a.map((x) => x / Math.hypot(...a));

// The middle of what an orbiting camera sees and its axes: at first from the patient's back, with superior up.
export function orbit([turn, tilt]) {
  const back = [Math.sin(turn) * Math.cos(tilt), Math.cos(turn) * Math.cos(tilt), Math.sin(tilt)];
  const right = unit(cross([0, 0, 1], back));
  return { right, up: cross(back, right), back };
}

// Column-major 4x4 of such a camera, at a distance from a point.
export function lookAt(center, { right, up, back }, distance) {
  const eye = plus(center, back, distance);
  return new Float32Array([
    right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
    -dot(right, eye), -dot(up, eye), -dot(back, eye), 1,
  ]);
}

export function perspective(field, aspect, near, far) {
  const f = 1 / Math.tan(field / 2);
  const depth = [(far + near) / (near - far), (2 * far * near) / (near - far)];
  return new Float32Array([f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, depth[0], -1, 0, 0, depth[1], 0]);
}

// Pixel (u, v) of a point on a detector, by its 3x4 matrix in rows; null: not in front of the source.
export function project(rows, [x, y, z]) {
  const [u, v, w] = [0, 4, 8].map((at) => rows[at] * x + rows[at + 1] * y + rows[at + 2] * z + rows[at + 3]);
  return w > 1e-6 ? [u / w, v / w] : null;
}
