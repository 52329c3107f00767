// The choice of the page's language: the viewer's, otherwise the browser's.
import { element, kept } from "./dom.js";
import { LANGUAGES, ofBrowser, setLanguage } from "./texts.js";

const choice = document.getElementById("language");
choice.append(...Object.entries(LANGUAGES).map(([value, name]) => Object.assign(element("option", "", [name]), { value })));

function choose(language) {
  setLanguage(language);
  choice.value = document.documentElement.lang;
}

choice.addEventListener("change", () => {
  kept.set("language", choice.value);
  choose(choice.value);
  document.dispatchEvent(new Event("language"));
});
choose(kept.get("language", ofBrowser()));
