// The tools: how each is, whether the tracker sees it, and which one the slices and the aim follow.
import { explain } from "./advice.js";
import { command } from "./control.js";
import { askedTwice, asks, element, keyed, setAttribute, setClass, setText } from "./dom.js";
import { say } from "./texts.js";

const SHAPES = { VALID: "●", DEGRADED: "▲", INVALID: "■" };
const IN_QUESTION = ["Mistaken", "Exchanged"]; // Causes that last until somebody says which tool it is.
const list = document.getElementById("tool-list");
const said = document.getElementById("tool-said");

export function drawInstruments(scene) {
  keyed(list, scene.tools, makeRow, ({ choose, shape, state, confirm }, { name, validity: { status, reason } }) => {
    setText(choose, name);
    setAttribute(choose, "aria-pressed", name === scene.state?.active_tool);
    setClass(shape, status);
    setText(shape, SHAPES[status]);
    const { key, cause } = explain(reason);
    setText(state, status === "VALID" ? say("stateVALID") : cause);
    confirm.hidden = !IN_QUESTION.includes(key);
    setText(confirm, say(asks(confirm) ? "confirmReally" : "confirm", name));
    setAttribute(state, "title", reason);
  });
}

function makeRow({ name }) {
  const [choose, shape, state] = [element("button", "aim"), element("b"), element("span")];
  const confirm = element("button", "confirm");
  const tell = async (operation) => {
    const { done, text } = await command(operation, { Tool: name });
    setClass(said, done ? "" : "refused");
    setText(said, text);
  };
  choose.addEventListener("click", () => tell("SetTool"));
  askedTwice(confirm, () => tell("ConfirmTool"));
  return Object.assign(element("li", "row", [choose, shape, state, confirm]), { choose, shape, state, confirm });
}
