// Small helpers that leave alone what has not changed, so that scenes 25 times a second neither lay the page out anew nor
// take the focus from what the keyboard is on.

export function element(tag, className = "", children = []) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setClass(node, className) {
  if (node.className !== className) node.className = className;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

const REALLY_MS = 4000; // After which the question is withdrawn.
const READ_MS = 400; // Nobody has read the question sooner: a double click, or a key that is held, is one answer.

// A button that acts at the second click; until then asks(button) is true, and its text may ask whether that is meant.
export function askedTwice(button, act) {
  let asked_ms = 0, withdrawing = 0;
  button.addEventListener("keydown", (event) => event.repeat && event.preventDefault());
  button.addEventListener("click", () => {
    if (asks(button) && performance.now() - asked_ms < READ_MS) return;
    clearTimeout(withdrawing);
    if (asks(button)) {
      button.dataset.asks = "";
      return act();
    }
    button.dataset.asks = "yes";
    asked_ms = performance.now();
    withdrawing = setTimeout(() => (button.dataset.asks = ""), REALLY_MS);
  });
}

export const asks = (button) => button.dataset.asks === "yes";

// One child of `parent` for each of `items`, found again by `item.name`.
export function keyed(parent, items, make, update) {
  const known = (parent.known ??= new Map());
  const names = new Set(items.map(({ name }) => name));
  for (const [name, node] of known) {
    if (names.has(name)) continue;
    node.remove();
    known.delete(name);
  }
  items.forEach((item, place) => {
    let node = known.get(item.name);
    if (!node) known.set(item.name, (node = make(item)));
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
    update(node, item);
  });
}

// What a viewer chose, kept in this browser; a browser that keeps nothing still works.
export const kept = {
  get(name, otherwise) {
    try {
      return localStorage.getItem(`navnode.${name}`) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`navnode.${name}`, value);
    } catch {
      // Private windows may refuse; the choice then lasts as long as the page.
    }
  },
};
