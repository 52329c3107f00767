// One state for the whole screen, its one reason in plain words, and what to do about it.
import { say } from "./texts.js";

// The first that fits counts; what a group captures is {1}, {2} of the text. The keys are those of texts.js.
const CAUSES = [
  [/the node is starting/, "Starting"],
  [/the node is silent|no connection|no pose from the node/, "Silent"],
  [/clock of|clocks (moved|are) |image clock is/, "Clock"],
  [/marker was hidden; an X-ray would|^Patient.* was not seen until/, "PatientBack"],
  [/patient's marker is not seen/, "PatientHidden"],
  [/patient's marker (was hidden and came back|jumped|slides|moved)|elsewhere than the marker/, "PatientMoved"],
  [/which marker moved shows from/, "CArmMarker"],
  [/mm from where he was, and no marker was seen/, "FoundElsewhere"],
  [/are exchanged/, "Exchanged"],
  [/not seen by the tracker|was not seen until just now/, "ToolHidden"],
  [/no pose from|pose is not known/, "NoPose"],
  [/repeats one pose/, "Repeats"],
  [/confirming the registration, (\d+) of (\d+)/, "Confirming"],
  [/no volume yet: (\d+) of (\d+)/, "NoVolume"],
  [/no volume yet: it is being made from (\d+)/, "Making"],
  [/no volume yet: /, "Refused"],
  [/no X-ray registered yet|not confirmed by/, "NoneYet"],
  [/no X-ray registered for (\d+) s/, "Age"],
  [/no X-ray from the side of a view/, "Return"],
  [/expected error ([\d.]+) mm \(VALID up to ([\d.]+) mm\)/, "ErrorOver"],
  [/expected error ([\d.]+) mm/, "Error"],
  [/made from a few X-rays/, "Few"],
  [/placed by tracking alone/, "Aside"],
  [/rejected the registration/, "Rejected"],
  [/vanished|not connected/, "Source"],
  [/moved [\d.]+ mm during the exposure/, "Motion"],
  [/inverted/, "Inverted"],
  [/(\d+)% of the image are covered by collimator/, "Covered"],
  [/geometry does not fit the image/, "Geometry"],
  [/does not show whether the C-arm/, "Unshown"],
  [/moved against each other since the CT/, "Bent"],
  [/contradict each other a little \(([\d.]+) mm, VALID up to ([\d.]+)/, "Apart"],
  [/contradict/, "Contradict"],
  [/registration lost|X-rays disagreed with the registration/, "Lost"],
  [/its marker jumped|came back where .* is|may be .*, which is not seen|were hidden together/, "Mistaken"],
  [/just come back/, "Doubt"],
  [/poses (arrive late|are stamped ahead of time)|X-rays take (longer|less time)/, "Clock"],
  [/the last one again|no time stamp|no pose for the exposure|waited too long|took too long/, "Unusable"],
  [/last step ([\d.]+) mm, VALID up to ([\d.]+)/, "Step"],
  [/residual ([\d.]+), VALID up to ([\d.]+)/, "Residual"],
  [/(?:similarity |details match poorly \(|little like it \()([\d.]+), VALID from ([\d.]+)/, "Likeness"],
  [/fix the depth|another pose fits|places? looks?|leaves its depth open/, "Open"],
  [/not settled/, "Settling"],
  [/match poorly|do not match|details do not|not explained|not look like|looks? little like/, "Match"],
];
const BADNESS = { VALID: 0, DEGRADED: 1, INVALID: 2 };

// Of the tool that one steers by and of the registration, the worse; the registration's reason if both are as bad.
export function verdict(scene) {
  if (!scene || scene.silent) return { status: "INVALID", reason: scene?.registration.reason ?? "the node is silent", tool: "" };
  const name = scene.state?.active_tool ?? "";
  const known = scene.tools.find((tool) => tool.name === name)?.validity;
  const tool = name ? (known ?? { status: "INVALID", reason: "no pose from the tracker" }) : scene.registration;
  const worse = BADNESS[tool.status] > BADNESS[scene.registration.status] ? tool : scene.registration;
  return { ...worse, tool: name };
}

// A cause by its key, in words.
export function told(key, ...values) {
  return { key, cause: say(`cause${key}`, ...values), advice: say(`advice${key}`) };
}

// Of a message of the node: {cause, advice}; a message that is not in the table is shown as it is.
export function explain(reason) {
  for (const [pattern, key] of CAUSES) {
    const found = pattern.exec(reason);
    if (found) return told(key, ...found.slice(1));
  }
  return { key: "", cause: reason, advice: reason ? say("seeDetails") : "" };
}
