// The page's entry point: a WebSocket that reconnects whenever it closes, a watchdog that notices a silent server
// by itself, and the dispatch of messages.
import "./language.js";
import "./layout.js";
import "./screenshot.js";
import { drawAim } from "./aim.js";
import { drawControls } from "./control.js";
import { Delay } from "./delay.js";
import { drawInstruments } from "./instruments.js";
import { drawPlans, forgetPoints } from "./plans.js";
import { drawSound } from "./sound.js";
import { Space } from "./space.js";
import { drawStatus } from "./status.js";
import { drawTouch } from "./touch.js";
import { XrayView } from "./xray.js";

const SILENT_MS = 1000;
const RECONNECT_MS = 700;
const LATE_MS = 3000;
const SLOWEST_MS = 30_000; // For the first scene to come, behind a CT.

const views = [0, 1].map((slot) => new XrayView(document.getElementById(`view-${slot}`)));
const space = new Space(document.querySelector(".space"));
const NOTHING = {
  silent: true, state: null, moving: false, tools: [], bodies: [], registration: { status: "INVALID", reason: "the node is silent" },
};
let lastHeard = -Infinity, lastCame = -Infinity; // In time; whenever.
let giveUp = () => {};
let drawn = true;
let scene = null;

function connect() {
  const address = new URL("ws", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  const delay = new Delay();
  const began = performance.now();
  let inTime = Infinity, over = false;
  const again = () => {
    if (!over) setTimeout(connect, RECONNECT_MS);
    over = true;
  };
  // A network that loses everything closes nothing: the browser would wait for minutes. A hidden page draws nothing, and
  // so hears nothing.
  giveUp = (now) => {
    const comes = socket.readyState === WebSocket.OPEN && inTime === Infinity;
    if (document.hidden || now - Math.max(began, lastHeard, lastCame) <= (comes ? SLOWEST_MS : LATE_MS)) return;
    socket.close();
    again();
  };
  // Whoever answers may be another node, with another patient: it sends all that it has.
  socket.onopen = () => {
    space.held.forEach((held) => space.forget(held));
    forgetPoints();
  };
  socket.onmessage = ({ data }) => {
    if (over) return;
    if (typeof data === "string") {
      const came = JSON.parse(data);
      const now = performance.now();
      if (delay.of(came.sent_ms, now) > SILENT_MS) {
        // It waited on the way, and what it says may no longer be true: the next one is newer. Where all are late, clocks
        // have gone differently, as when this machine slept.
        socket.send(JSON.stringify({ ack: came.number }));
        if (now - inTime > LATE_MS) socket.close();
        return;
      }
      if (came.round_trip_ms === null || came.round_trip_ms > SILENT_MS) {
        // Where all are as late, only the way there and back shows it. A new connection would change nothing.
        inTime = lastCame = now;
        socket.send(JSON.stringify({ ack: came.number }));
        return;
      }
      inTime = lastHeard = now;
      scene = came;
      drawn = false;
      // Acknowledge after drawing, so that a slow page gets fewer scenes instead of falling behind.
      requestAnimationFrame(() => {
        try {
          draw();
        } finally {
          if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ ack: came.number }));
        }
      });
    } else dispatch(data);
  };
  socket.onclose = again;
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
  else if (head.kind === "volume") {
    const [b, o, n] = parts[0];
    space.setVolume(head, new Uint16Array(b, o, n / 2));
  }
  else if (head.kind === "gone") space.withdraw(head);
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
  drawSound(drawStatus(scene));
  drawControls(scene.state, scene.registration);
  drawAim(scene);
  drawPlans(scene);
  drawInstruments(scene);
  drawTouch(scene);
  views.forEach((view, slot) => view.draw(scene.views.find((v) => v.slot === slot), scene, slot));
  space.draw(scene);
}

// What is said of a node that is silent is said anew, too.
document.addEventListener("language", () => {
  drawn = false;
  draw();
});

setInterval(() => {
  giveUp(performance.now());
  if (performance.now() - lastHeard <= SILENT_MS) return;
  document.body.classList.add("silent");
  if (!scene) drawStatus(NOTHING);
  else if (!scene.silent) {
    // What is on the screen may no longer be true: withdraw the tools.
    const validity = { status: "INVALID", reason: "no connection" };
    const withdrawn = ({ name }) => ({ name, validity });
    scene = {
      ...scene,
      silent: true,
      state: null,
      aim: null,
      plans: [],
      moving: false,
      registration: validity,
      bodies: scene.bodies.map(withdrawn),
      tools: scene.tools.map(withdrawn),
      views: scene.views.map((view) => ({ ...view, live: false })),
    };
    drawn = false;
    draw();
  }
}, 200);
connect();
