// A field that finds a class by its name or number.

import { make } from "./dom.js";

export class Classes {
  #names = [];
  #found = [];
  #active = -1;
  #chosen = null;

  constructor(input, list) {
    Object.assign(this, { input, list });
    input.oninput = input.onclick = () => this.#open();
    input.onblur = () => this.#close();
    input.onkeydown = (event) => this.#key(event);
    list.onmousedown = (event) => event.preventDefault(); // the field keeps the focus
    list.onclick = (event) => {
      const place = [...list.children].indexOf(event.target.closest("li"));
      if (place >= 0) this.#choose(place);
    };
  }

  set names(names) {
    this.#names = names;
    this.number = 0;
  }

  // The number of the class that is named, or null if the name is none.
  get number() {
    const text = this.input.value.trim();
    if (this.title(this.#chosen) === text) return this.#chosen; // of several of a name, that one
    const named = this.#names.indexOf(text);
    return named >= 0 ? named : /^\d+$/.test(text) ? Number(text) : null;
  }

  set number(number) {
    this.#chosen = number;
    this.input.value = this.title(number);
  }

  title(number) {
    return this.#names[number] ?? String(number);
  }

  // Numbers of classes: those of which the text is the number or the beginning first; all if the
  // text is one of them, so that another can be seen.
  #matches() {
    const text = this.input.value.trim().toLowerCase();
    const words = text.split(/\s+/);
    if (this.number !== null && this.title(this.number) === this.input.value) return [...this.#names.keys()];
    const rank = (name, number) => {
      if (String(number) === text) return 0;
      if (!words.every((word) => name.includes(word))) return 3;
      return name.startsWith(text) ? 1 : 2;
    };
    const ranked = this.#names.map((name, number) => [rank(name.toLowerCase(), number), number]);
    return ranked.filter(([of]) => of < 3).sort(([a, x], [b, y]) => a - b || x - y).map(([, number]) => number);
  }

  #open() {
    this.#found = this.#matches();
    const option = (number, place) =>
      make("li", { id: `class-${place}`, role: "option" }, this.title(number), make("small", {}, number));
    this.list.replaceChildren(...this.#found.map(option));
    this.#show(this.#found.length > 0);
    this.#mark(this.#found.indexOf(this.number));
  }

  #close() {
    this.#show(false);
    this.#mark(-1);
  }

  #show(is) {
    this.list.hidden = !is;
    this.input.ariaExpanded = String(is);
  }

  #mark(place) {
    this.#active = place;
    this.#found.forEach((_, i) => (this.list.children[i].ariaSelected = String(i === place)));
    this.input.setAttribute("aria-activedescendant", place < 0 ? "" : `class-${place}`);
    this.list.children[place]?.scrollIntoView({ block: "nearest" });
  }

  #choose(place) {
    this.number = this.#found[place];
    this.#close();
  }

  #key(event) {
    const open = !this.list.hidden;
    const count = this.#found.length;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && !open) this.#open();
    else if (step) this.#mark(this.#active < 0 && step < 0 ? count - 1 : (this.#active + step + count) % count);
    else if (event.key === "Enter" && open && this.#active >= 0) this.#choose(this.#active);
    else if (event.key === "Escape" && open) this.#close();
    else return;
    event.preventDefault();
  }
}
