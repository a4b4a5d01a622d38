// The gallery's pictures in a row, and one of them large.

import { $, make, show } from "./dom.js";

const FACTS = ["seed", "first", "guidance", "temperature", "top_k", "top_p", "steps"];

export class Viewer {
  #picture = null;

  // `edit` is called with the file of a picture, `reuse` with a picture.
  constructor(gallery, edit, reuse) {
    this.gallery = gallery;
    const acts = { close: () => 0, edit: () => edit(this.#picture.file), reuse: () => reuse(this.#picture) };
    for (const [name, act] of Object.entries(acts)) {
      $(`view-${name}`).onclick = () => {
        $("viewer").close();
        act();
      };
    }
    $("view-delete").onclick = () => this.#remove();
    $("view-delete").onblur = () => this.#ask(false);
  }

  // Show all pictures of the gallery, those that are shown already as they are.
  list() {
    const { pictures, keeps } = this.gallery;
    const shown = new Map([...$("gallery").children].map((item) => [item.dataset.id, item]));
    $("gallery").replaceChildren(...pictures.map((one) => shown.get(String(one.id)) ?? this.#item(one)));
    if (!keeps) $("nothing").textContent = "This browser keeps no pictures: they go with the page.";
    $("nothing").hidden = keeps && pictures.length > 0;
  }

  #item(picture) {
    const image = show(make("img", { loading: "lazy" }), this.#address(picture), picture.title);
    const item = make("li", {}, make("button", { onclick: () => this.open(picture) }, image));
    item.dataset.id = picture.id;
    return item;
  }

  #address(picture) {
    return (picture.address ??= URL.createObjectURL(picture.file));
  }

  open(picture) {
    const { about, title, model, id } = (this.#picture = picture);
    this.#ask(false);
    show($("view-image"), this.#address(picture), title);
    $("view-title").textContent = title;
    $("view-download").href = this.#address(picture);
    $("view-download").download = `smalti-${about.seed}-${about.index}.png`;
    const told = FACTS.map((name) => [$(name).labels[0].textContent, { ...about, first: about.index }[name]]);
    told.push(["Edited", about.edit && "yes"], ["Model", model], ["Drawn", new Date(id).toLocaleString()]);
    const pair = ([name, value]) => (value == null ? [] : [make("dt", {}, name), make("dd", {}, value)]);
    $("view-facts").replaceChildren(...told.flatMap(pair));
    $("viewer").showModal();
  }

  #ask(sure) {
    $("view-delete").textContent = sure ? "Delete for good?" : "Delete";
    $("view-delete").classList.toggle("sure", sure);
  }

  async #remove() {
    if (!$("view-delete").classList.contains("sure")) return this.#ask(true);
    await this.gallery.remove(this.#picture);
    URL.revokeObjectURL(this.#address(this.#picture));
    this.list();
    $("viewer").close();
    $("gallery").querySelector("button")?.focus();
  }
}
