// The tools: how each is, whether the tracker sees it, and which one the slices and the aim follow.
import { explain } from "./advice.js";
import { command } from "./control.js";
import { element, keyed, setAttribute, setClass, setText } from "./dom.js";
import { say } from "./texts.js";

const SHAPES = { VALID: "●", DEGRADED: "▲", INVALID: "■" };
const list = document.getElementById("tool-list");
const said = document.getElementById("tool-said");

export function drawInstruments(scene) {
  keyed(list, scene.tools, makeRow, ({ choose, shape, state }, { name, validity: { status, reason } }) => {
    setText(choose, name);
    setAttribute(choose, "aria-pressed", name === scene.state?.active_tool);
    setClass(shape, status);
    setText(shape, SHAPES[status]);
    setText(state, status === "VALID" ? say("stateVALID") : explain(reason).cause);
    setAttribute(state, "title", reason);
  });
}

function makeRow({ name }) {
  const [choose, shape, state] = [element("button", "aim"), element("b"), element("span")];
  choose.addEventListener("click", async () => {
    const { done, text } = await command("SetTool", { Tool: name });
    setClass(said, done ? "" : "refused");
    setText(said, text);
  });
  return Object.assign(element("li", "row", [choose, shape, state]), { choose, shape, state });
}
