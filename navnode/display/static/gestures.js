// What wheel, drag, pinch and keys do to the picture under them, or with the focus, and to no other.
const CLICK_PX = 4;

// `on`: zoom(factor, [x, y]) with a factor below 1 for nearer, shift(dx, dy), reset(); and, where a picture has them,
// through(steps), level(dx, dy), click([x, y]), twice() after a click, press(event) for further keys, which returns whether it was one. CSS px
// from within its border.
export function listen(node, on) {
  const fingers = new Map();
  let moved = false;
  const place = (event) => {
    const box = node.getBoundingClientRect();
    return [event.clientX - box.left - node.clientLeft, event.clientY - box.top - node.clientTop];
  };

  function drag(finger, now) {
    const [dx, dy] = [now[0] - finger.now[0], now[1] - finger.now[1]];
    if (Math.hypot(now[0] - finger.began[0], now[1] - finger.began[1]) > CLICK_PX) moved = true;
    const other = [...fingers.values()].find((each) => each !== finger);
    if (other) {
      const apart = (at) => Math.max(10, Math.hypot(at[0] - other.now[0], at[1] - other.now[1]));
      on.zoom(apart(finger.now) / apart(now), [(now[0] + other.now[0]) / 2, (now[1] + other.now[1]) / 2]);
      on.shift(dx / 2, dy / 2);
    } else if (finger.button === 2) on.level?.(dx, dy);
    else if (moved) on.shift(dx, dy);
    finger.now = now;
  }

  node.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || !on.through) on.zoom(Math.exp(event.deltaY * 0.002), place(event));
    else on.through(-Math.sign(event.deltaY) * Math.max(1, Math.round(Math.abs(event.deltaY) / 100)));
  }, { passive: false });
  node.addEventListener("contextmenu", (event) => event.preventDefault());
  node.addEventListener("pointerdown", (event) => {
    if (event.target !== node) return;
    node.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { began: place(event), now: place(event), button: event.button });
    moved = fingers.size > 1;
  });
  node.addEventListener("pointermove", (event) => {
    const finger = fingers.get(event.pointerId);
    if (finger) drag(finger, place(event));
  });
  for (const kind of ["pointerup", "pointercancel"]) node.addEventListener(kind, (event) => {
    fingers.delete(event.pointerId);
  });
  // Of a double click, `detail` counts the clicks: the second is none of its own.
  node.addEventListener("click", (event) => event.target === node && !moved && event.detail < 2 && on.click?.(place(event)));
  node.addEventListener("dblclick", (event) => event.target === node && !moved && on.twice?.());
  node.addEventListener("keydown", (event) => {
    if (event.key === "+" || event.key === "-") on.zoom(event.key === "+" ? 0.9 : 1 / 0.9, [node.clientWidth / 2, node.clientHeight / 2]);
    else if (event.key === "0") on.reset();
    else if (!on.press?.(event)) return;
    event.preventDefault();
  });
}
