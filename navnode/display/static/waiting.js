// What is being prepared, until the display's own page answers at the same address.
import { kept, setText } from "./dom.js";
import { ofBrowser, say, setLanguage } from "./texts.js";

const EVERY_MS = 400;
const STEPS = [[/^Fetching the sample CT/, "fetchingCt"], [/^Rendering X-rays/, "renderingXrays"]];
const [what, share, count] = ["what", "share", "count"].map((id) => document.getElementById(id));

async function look() {
  let answer;
  try {
    answer = await fetch("preparing");
  } catch {
    return show({ what: "", done: 0, total: 0 }); // Between the two servers, or the command has ended.
  }
  if (answer.ok) show(await answer.json());
  else location.reload();
}

function show(now) {
  const known = STEPS.find(([pattern]) => pattern.test(now.what));
  setText(what, known ? say(known[1]) : now.what || say("startingUp"));
  if (now.total) Object.assign(share, { max: now.total, value: now.done });
  else share.removeAttribute("value");
  setText(count, now.total ? `${now.done} / ${now.total}` : "");
}

setLanguage(kept.get("language", ofBrowser()));
look();
setInterval(look, EVERY_MS);
