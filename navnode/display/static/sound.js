// A falling pair of tones when what one steers by is lost, a rising one when it is back; off until a viewer wants it.
import { kept, setAttribute, setText } from "./dom.js";
import { say } from "./texts.js";

const LASTS_MS = 300; // A state that lasts for less makes no sound: it would only rattle.
const LOST = [660, 440], BACK = [440, 660];
const button = document.getElementById("sound");
let wanted = kept.get("sound", "off") === "on";
let context = wanted ? new AudioContext() : null;
let usable = null;
let since = 0;

function show() {
  setAttribute(button, "aria-pressed", wanted);
  setText(button, say(!wanted ? "soundOff" : context?.state === "running" ? "soundOn" : "soundWaits"));
}

// Browsers allow sound only after a click or a key, wherever it is.
for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => wanted && context?.state === "suspended" && context.resume().then(show));

button.addEventListener("click", () => {
  wanted = !wanted;
  kept.set("sound", wanted ? "on" : "off");
  if (wanted) play(BACK); // It also lets the viewer hear it.
  show();
});

export function drawSound({ status }) {
  show();
  const now = performance.now();
  const able = status !== "INVALID";
  if (usable === null) usable = able;
  if (able === usable) since = now;
  else if (now - since >= LASTS_MS) {
    usable = able;
    if (wanted) play(able ? BACK : LOST);
  }
}

function play(tones) {
  context ??= new AudioContext();
  context.resume().then(show);
  tones.forEach((hertz, place) => {
    const tone = context.createOscillator(), volume = context.createGain();
    const begin = context.currentTime + place * 0.22;
    tone.frequency.value = hertz;
    volume.gain.setValueAtTime(0.2, begin);
    volume.gain.exponentialRampToValueAtTime(0.001, begin + 0.2);
    tone.connect(volume).connect(context.destination);
    tone.start(begin);
    tone.stop(begin + 0.21);
  });
  document.body.dataset.sounded = tones === LOST ? "lost" : "back";
}
