// The gallery's pictures in a row, and one of them large, with what can be done with it.

import { $, make } from "./dom.js";

export class Viewer {
  #addresses = new Map(); // of pictures, for as long as they are shown
  #picture = null;

  // `edit` is called with the file of a picture, `reuse` with a picture.
  constructor(gallery, { edit, reuse }) {
    this.gallery = gallery;
    $("view-close").addEventListener("click", () => $("viewer").close());
    $("view-newer").addEventListener("click", () => this.#step(-1));
    $("view-older").addEventListener("click", () => this.#step(1));
    $("view-delete").addEventListener("click", () => this.#remove());
    $("view-delete").addEventListener("blur", () => this.#ask(false));
    for (const [id, act] of [["view-edit", () => edit(this.#picture.file)], ["view-reuse", () => reuse(this.#picture)]]) {
      $(id).addEventListener("click", () => {
        $("viewer").close();
        act();
      });
    }
    $("viewer").addEventListener("click", (event) => event.target === $("viewer") && $("viewer").close());
    $("viewer").addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.#step(-1);
      if (event.key === "ArrowRight") this.#step(1);
    });
  }

  // Show all pictures of the gallery, those that are shown already as they are.
  list() {
    const { pictures } = this.gallery;
    const shown = new Map([...$("gallery").children].map((item) => [item.dataset.id, item]));
    $("gallery").replaceChildren(...pictures.map((one) => shown.get(String(one.id)) ?? this.#item(one)));
    $("count").textContent = pictures.length || "";
    $("nothing").hidden = pictures.length > 0;
  }

  #item(picture) {
    const image = make("img", { src: this.#address(picture), alt: picture.title, loading: "lazy" });
    const open = make("button", { type: "button", title: picture.title }, image);
    open.addEventListener("click", () => this.open(picture));
    image.addEventListener("load", () => image.classList.toggle("coarse", image.naturalWidth < 160));
    const item = make("li", {}, open);
    item.dataset.id = picture.id;
    return item;
  }

  #address(picture) {
    if (!this.#addresses.has(picture)) this.#addresses.set(picture, URL.createObjectURL(picture.file));
    return this.#addresses.get(picture);
  }

  open(picture) {
    const { about, file, title } = picture;
    this.#picture = picture;
    this.#ask(false);
    $("view-image").src = $("view-download").href = this.#address(picture);
    $("view-image").alt = $("view-title").textContent = title;
    $("view-image").onload = ({ target }) => target.classList.toggle("coarse", target.naturalWidth < 160);
    const end = file.type.split("/")[1];
    $("view-download").download = `smalti-${about.seed ?? picture.id}-${about.index ?? 0}.${end}`;
    $("view-facts").replaceChildren(...facts(picture).flatMap(([name, value]) => [
      make("dt", { textContent: name }),
      make("dd", { textContent: value }),
    ]));
    const place = this.gallery.pictures.indexOf(picture);
    $("view-newer").disabled = place <= 0;
    $("view-older").disabled = place >= this.gallery.pictures.length - 1;
    if (!$("viewer").open) $("viewer").showModal();
  }

  #step(by) {
    const { pictures } = this.gallery;
    const next = pictures[pictures.indexOf(this.#picture) + by];
    if (next) this.open(next);
  }

  #ask(sure) {
    $("view-delete").textContent = sure ? "Delete for good?" : "Delete";
    $("view-delete").classList.toggle("sure", sure);
  }

  async #remove() {
    if (!$("view-delete").classList.contains("sure")) return this.#ask(true);
    const picture = this.#picture;
    const place = this.gallery.pictures.indexOf(picture);
    await this.gallery.remove(picture);
    URL.revokeObjectURL(this.#addresses.get(picture));
    this.#addresses.delete(picture);
    this.list();
    const next = this.gallery.pictures[Math.min(place, this.gallery.pictures.length - 1)];
    if (next) return this.open(next);
    $("viewer").close();
  }
}

// What a picture says of how it was drawn.
function facts({ about, made, model }) {
  const told = [["Model", model], ["Seed", about.seed], ["Picture", about.index]];
  const names = { guidance: "Guidance", temperature: "Temperature", top_k: "Top-k", top_p: "Top-p", steps: "Steps" };
  for (const [name, label] of Object.entries(names)) told.push([label, about[name]]);
  if (about.edit) told.push(["Edited", about.edit.mask ? "by a mask" : "at its sides"]);
  told.push(["Drawn", new Date(made).toLocaleString()]);
  return told.filter(([, value]) => value !== undefined && value !== null);
}
