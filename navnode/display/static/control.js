// Recording, sources, and the player of a replay: buttons that send commands through the server to the node or the player.
import { askedTwice, asks, setClass, setText } from "./dom.js";
import { say } from "./texts.js";

const record = document.getElementById("record");
const reconnect = document.getElementById("reconnect");
const accept = document.getElementById("accept");
const replay = document.getElementById("replay");
const at = document.getElementById("replay-at");
const said = document.getElementById("record-said"), amount = document.getElementById("record-amount");
const ASK_MS = 500;
let recording = null;
let replaying = false;
let held = "";

export async function command(name, parameters = {}) {
  try {
    const answer = await fetch("command", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name, parameters }),
    });
    return answer.ok ? await answer.json() : { done: false, text: await answer.text() };
  } catch {
    return { done: false, text: say("noAnswer") };
  }
}

record.addEventListener("click", async () => {
  record.disabled = true;
  const { done, text } = await command(recording?.running ? "StopRecording" : "StartRecording");
  record.disabled = false;
  setText(said, done ? "" : text); // Where its file is, and whether it fails, is said by the node's state.
});

reconnect.addEventListener("click", async () => {
  reconnect.disabled = true;
  const { text } = await command("Reconnect");
  reconnect.disabled = false;
  reconnect.title = text;
});

askedTwice(accept, async () => {
  const { text } = await command("RegistrationAccept");
  accept.title = text;
});

for (const button of replay.querySelectorAll("button")) {
  button.addEventListener("click", async () => {
    const { name, seconds } = button.dataset;
    const { text } = await command(name, seconds ? { Seconds: seconds } : {});
    stand(text);
  });
}

setInterval(async () => {
  if (!replaying || document.hidden) return;
  const { done, text } = await command("ReplayState");
  if (done) stand(text);
}, ASK_MS);

function stand(text) {
  held = { over: "Over", paused: "Paused" }[/, (over|paused)$/.exec(text)?.[1]] ?? "";
  setText(at, position(text));
}

// Why a replay sends nothing, if it does not: a key of advice.js.
export const replayHeld = () => (replaying ? held : "");

// Where a player says that it is; what else it says, as it stands.
export function position(text) {
  const found = /([\d.]+) of ([\d.]+) s, (?:(over)|(paused)|([\d.e+-]+) x)$/.exec(text);
  if (!found) return text;
  const [, now, length, over, paused, rate] = found;
  return say("replayAt", now, length, say(over ? "replayOver" : paused ? "replayPaused" : "replayTimes", rate));
}

// Of a recording: its file and size, or why it failed.
export function recorded({ file, messages, size_mb, lost, failure, minutes_left }) {
  if (failure) return say("recordFailed", failure);
  if (!file) return "";
  const more = [lost && say("recordLost", lost), minutes_left != null && say("recordFull", minutes_left.toFixed(0))];
  return [say("recorded", file, messages, size_mb), ...more.filter(Boolean)].join(", ");
}

export function drawControls(state, registration) {
  recording = state?.recording;
  replaying = Boolean(state && state.replay);
  record.hidden = reconnect.hidden = !state || replaying;
  accept.hidden = replaying || !/which marker moved|accept it if he did/.test(registration.reason);
  setText(accept, asks(accept) ? say("confirmReally", say("accept")) : say("accept"));
  setClass(record, recording?.faulty ? "failed" : recording?.running ? "on" : "");
  setText(record, say(recording?.running ? "recordStop" : "record"));
  // How large it is by now, or why it failed.
  setClass(amount, recording?.faulty ? "refused" : "");
  setText(amount, recording?.running || recording?.faulty ? recorded(recording) : "");
  // Once shown, the mark stays, whatever the server reports afterwards.
  if (replaying) {
    replay.hidden = false;
    if (!at.textContent) setText(at, say("replayNotLive"));
    document.body.classList.add("replay");
  }
}
