// A field that finds a class by letters of its name or by its number.

import { make } from "./dom.js";

const MOST = 60; // that are shown

export class Classes {
  #names = [];
  #found = [];
  #active = -1;

  constructor(input, list) {
    Object.assign(this, { input, list });
    input.addEventListener("input", () => this.#open());
    input.addEventListener("click", () => this.#open());
    input.addEventListener("blur", () => this.#close());
    input.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("mousedown", (event) => event.preventDefault()); // keeps the focus
    list.addEventListener("click", (event) => {
      const option = event.target.closest("li");
      if (option) this.#choose(Number(option.dataset.number));
    });
  }

  set names(names) {
    this.#names = names;
    this.input.value = names[0] ?? "0";
    this.#close();
  }

  // The number of the class that is named, or null if the name is none.
  get number() {
    const text = this.input.value.trim();
    const chosen = Number(this.input.dataset.number ?? -1);
    if (this.#names[chosen] === text) return chosen;
    const named = this.#names.indexOf(text);
    return named >= 0 ? named : /^\d+$/.test(text) ? Number(text) : null;
  }

  set number(number) {
    this.input.dataset.number = number;
    this.input.value = this.#names[number] ?? String(number);
  }

  title(number) {
    return this.#names[number] ?? `class ${number}`;
  }

  #matches() {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const exact = this.#names.includes(this.input.value.trim()); // so all others can be seen
    const found = [];
    this.#names.forEach((name, number) => {
      const low = name.toLowerCase();
      if (exact) found.push([0, number]);
      else if (words[0] === String(number)) found.push([-1, number]);
      else if (words.every((word) => low.includes(word))) {
        found.push([low.startsWith(words[0] ?? "") ? 0 : 1, number]);
      }
    });
    return found.sort(([a, x], [b, y]) => a - b || x - y).map(([, number]) => number);
  }

  #open() {
    const all = this.#matches();
    this.#found = all.slice(0, MOST);
    const options = this.#found.map((number, place) => {
      const option = make("li", { id: `class-${place}`, role: "option" });
      option.dataset.number = number;
      option.append(make("span", { textContent: this.#names[number] }), make("small", { textContent: number }));
      return option;
    });
    if (all.length > MOST) options.push(make("p", { textContent: `and ${all.length - MOST} more` }));
    this.list.replaceChildren(...options);
    this.list.hidden = !options.length;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
    this.#mark(this.#found.indexOf(this.number));
  }

  #close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  #mark(place) {
    this.#active = place;
    this.#found.forEach((_, i) => this.list.children[i].setAttribute("aria-selected", String(i === place)));
    if (place < 0) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", `class-${place}`);
    this.list.children[place].scrollIntoView({ block: "nearest" });
  }

  #choose(number) {
    this.number = number;
    this.#close();
  }

  #key(event) {
    const open = !this.list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) return this.#open();
      const step = event.key === "ArrowDown" ? 1 : -1;
      const count = this.#found.length;
      if (count) this.#mark((Math.max(this.#active, step < 0 ? 0 : -1) + step + count) % count);
    } else if (event.key === "Enter" && open && this.#active >= 0) {
      event.preventDefault();
      this.#choose(this.#found[this.#active]);
    } else if (event.key === "Escape" && open) {
      event.preventDefault();
      this.#close();
    }
  }
}
