// The page's entry point: a WebSocket that reconnects whenever it closes, a watchdog that notices a silent server
// by itself, and the dispatch of messages.
import { Space } from "./space.js";
import { drawControls } from "./control.js";
import { XrayView } from "./xray.js";

const SILENT_MS = 1000;
const RECONNECT_MS = 700;

const views = [0, 1].map((slot) => new XrayView(document.getElementById(`view-${slot}`)));
const space = new Space(document.querySelector(".space"));
let lastHeard = -Infinity;
let drawn = true;
let scene = null;

function connect() {
  const address = new URL("ws", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    lastHeard = performance.now();
    if (typeof data === "string") {
      scene = JSON.parse(data);
      drawn = false;
      // Acknowledge after drawing, so that a slow page gets fewer scenes instead of falling behind.
      requestAnimationFrame(() => {
        draw();
        if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ ack: scene.number }));
      });
    } else dispatch(data);
  };
  socket.onclose = () => setTimeout(connect, RECONNECT_MS);
}

function dispatch(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const parts = head.sizes.map((size) => {
    const part = [buffer, at, size];
    at += size + ((4 - (size % 4)) % 4);
    return part;
  });
  if (head.kind === "view") views[head.slot].show(new Blob([new Uint8Array(...parts[0])], { type: "image/jpeg" }), head.timestamp_ns);
  else if (head.kind === "volume") space.setVolume(head, new Uint8Array(...parts[0]));
  else if (head.kind === "gone") space.forget(head);
  else if (head.kind === "mesh") {
    const floats = ([b, o, n]) => new Float32Array(b, o, n / 4);
    const [b, o, n] = parts[2];
    space.setMesh(head, floats(parts[0]), floats(parts[1]), new Uint32Array(b, o, n / 4));
  }
}

function draw() {
  if (drawn || !scene) return;
  drawn = true;
  document.body.classList.toggle("silent", scene.silent);
  drawBadges(scene);
  drawControls(scene.state);
  views.forEach((view, slot) => view.draw(scene.views.find((v) => v.slot === slot), scene, slot));
  space.draw(scene);
}

function drawBadges({ registration, bodies, tools, state, moving }) {
  const badges = [["Registration", registration], ...[...bodies, ...tools].map((t) => [t.name, t.validity])];
  document.getElementById("badges").replaceChildren(
    ...badges.map(([name, { status, reason }]) => element("div", `badge ${status}`, [`${name} ${status}`, element("span", "", [reason])])),
    ...(moving ? [element("div", "badge", ["C-arm moving"])] : []),
  );
  if (!state) return;
  const [p50, p99] = state.latency_ms;
  const figure = (name, value) => element("span", "", [`${name} `, element("b", "", [value])]);
  const ms = (value) => (value == null ? "–" : value.toFixed(value < 10 ? 1 : 0));
  document.getElementById("figures").replaceChildren(
    figure("frames/s", state.frame_rate_hz.toFixed(1)),
    figure("frame → pose ms", `${ms(p50)} / ${ms(p99)}`),
    figure("overlay ms", `${ms(state.overlay_ms[0])} / ${ms(state.overlay_ms[1])}`),
    figure("± mm", state.target_sigma_mm == null ? "–" : state.target_sigma_mm.toFixed(2)),
  );
  const [took, elsewhere, budget] = state.volume_s;
  const sources = Object.entries(state.sources).map(([name, why]) => `${name} ${why || "connected"}`);
  document.getElementById("sources").textContent = [
    `Volume: ${state.volume || "none yet"}`,
    `${state.frames_registered} of ${state.frames_received} frames registered`,
    `dose: ${state.dose}`,
    ...(state.recording.text ? [`recording ${state.recording.text}`] : []),
    ...sources,
    `reconstruction: ${state.worker}, ${state.volumes} volumes` +
      (took == null ? "" : `, the last took ${took} s, ${elsewhere} s of it in transit (budget ${budget} s)`),
  ].join("  ·  ");
  document.getElementById("notices").textContent = state.notices.join("  ·  ");
}

function element(tag, className, children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

setInterval(() => {
  if (performance.now() - lastHeard <= SILENT_MS) return;
  document.body.classList.add("silent");
  if (scene && !scene.silent) {
    // What is on the screen may no longer be true: withdraw the tools.
    const withdrawn = ({ name }) => ({ name, validity: { status: "INVALID", reason: "no connection" } });
    scene = { ...scene, silent: true, bodies: scene.bodies.map(withdrawn), tools: scene.tools.map(withdrawn) };
    drawn = false;
    draw();
  }
}, 200);
connect();
