// Which HU are black and which white, on all slices.
import { kept } from "./dom.js";

const PRESETS = { bone: [300, 1600], soft: [40, 400], lung: [-600, 1500] };
const choice = document.getElementById("window");
const NARROWEST_HU = 20, WIDEST_HU = 4000;

export const grey = {
  level: 0,
  width: 1,
  get range() {
    return [this.level - this.width / 2, this.level + this.width / 2];
  },
  choose(name) {
    [this.level, this.width] = PRESETS[name] ?? PRESETS.bone;
    choice.value = name in PRESETS ? name : "bone";
    kept.set("window", choice.value);
  },
  // Sideways: wider; down: darker, as on other viewers.
  drag(dx, dy) {
    this.width = Math.max(NARROWEST_HU, Math.min(WIDEST_HU, this.width * Math.exp(dx * 0.006)));
    this.level = Math.max(-1500, Math.min(3000, this.level + dy * this.width * 0.003));
    choice.value = "";
  },
};

choice.addEventListener("change", () => choice.value && grey.choose(choice.value));
grey.choose(kept.get("window", "bone"));
