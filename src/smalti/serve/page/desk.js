// Where a picture is edited: a mask is painted over it, and pixels are added at its sides.

import { $, bitmap, fit, make, pngOf } from "./dom.js";

const SIDES = ["left", "right", "top", "bottom"];
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const LARGEST = 1024; // pixels of a side that are sent
const UNDONE = 20; // strokes that can be taken back

const [picture, mask] = [$("picture"), $("mask")];

export class Desk {
  #mask = mask.getContext("2d", { willReadFrequently: true });
  #before = []; // the mask as it was before each stroke
  #at = [0, 0]; // where the brush is
  #down = false;
  #shape = null; // width and height of what the model draws

  constructor() {
    mask.onpointerdown = (event) => this.#press(event);
    mask.onpointermove = (event) => this.#move(event);
    mask.onpointerup = mask.onpointercancel = () => (this.#down = false);
    mask.onkeydown = (event) => this.#key(event);
    $("undo").onclick = () => this.#undo();
    $("clear").onclick = () => this.#clear();
    $("brush").oninput = () => this.#ring();
    const number = (id) => make("input", { id, type: "number", min: 0, value: 0, oninput: () => this.#frame() });
    $("sides").append(...SIDES.map((side) => make("label", {}, side, number(side))));
  }

  get loaded() {
    return this.#shape !== null;
  }

  // Put a picture there: the middle of it that has the shape width x height.
  async load(file, width, height) {
    const image = await bitmap(file, $("file"));
    const cut = Math.min(image.width / width, image.height / height);
    const scale = Math.min(cut, Math.max(1, LARGEST / Math.max(width, height)));
    const [w, h] = [width * scale, height * scale].map((v) => Math.max(1, Math.round(v)));
    for (const canvas of [picture, mask]) {
      Object.assign(canvas, { width: w, height: h });
      canvas.classList.toggle("coarse", w < 160);
    }
    fit(image, picture);
    for (const side of SIDES) $(side).value = 0;
    [this.#shape, this.#before, this.#at] = [[width, height], [], [w / 2, h / 2]];
    $("sheet").classList.add("loaded");
    this.#frame();
    this.#ring();
  }

  // Pixels to add as a request says them: "left=16,top=8".
  get extend() {
    const added = SIDES.filter((side) => Number($(side).value) > 0);
    return added.map((side) => `${side}=${$(side).value}`).join(",");
  }

  // The picture, and a mask that is transparent where it is to be painted anew, if anything is.
  async files() {
    const files = { image: await pngOf(picture) };
    if (!this.#pixels().data.some((value, i) => i % 4 === 3 && value > 127)) return files;
    const { width, height } = mask;
    const sheet = make("canvas", { width, height });
    const pen = sheet.getContext("2d");
    pen.fillRect(0, 0, width, height);
    pen.globalCompositeOperation = "destination-out";
    pen.drawImage(mask, 0, 0);
    return { ...files, mask: await pngOf(sheet) };
  }

  // The mask as it is.
  #pixels() {
    return this.#mask.getImageData(0, 0, mask.width, mask.height);
  }

  #undo() {
    const before = this.#before.pop();
    if (before) this.#mask.putImageData(before, 0, 0);
  }

  #clear() {
    this.#remember();
    this.#mask.clearRect(0, 0, mask.width, mask.height);
  }

  #remember() {
    this.#before.push(this.#pixels());
    if (this.#before.length > UNDONE) this.#before.shift();
  }

  get #width() {
    return (Number($("brush").value) / 100) * mask.width;
  }

  #place({ clientX, clientY }) {
    const { left, top, width, height } = mask.getBoundingClientRect();
    return [((clientX - left) / width) * mask.width, ((clientY - top) / height) * mask.height];
  }

  #press(event) {
    if (event.button) return;
    mask.setPointerCapture(event.pointerId);
    this.#remember();
    this.#down = true;
    this.#at = this.#place(event);
    this.#stroke(this.#at);
  }

  #move(event) {
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const to = this.#place(one);
      if (this.#down) this.#stroke(to);
      this.#at = to;
    }
    this.#ring();
  }

  // Paint, or erase, from where the brush is.
  #stroke([x, y]) {
    const pen = this.#mask;
    pen.globalCompositeOperation = $("erase").checked ? "destination-out" : "source-over";
    Object.assign(pen, { strokeStyle: "#d413c4", lineWidth: this.#width, lineCap: "round" });
    pen.beginPath();
    pen.moveTo(...this.#at);
    pen.lineTo(x + 1e-3, y); // a point is a line too
    pen.stroke();
  }

  // Arrows move the brush, by one pixel with Shift; the space bar puts it down.
  #key(event) {
    const step = event.shiftKey ? 1 : Math.max(1, this.#width / 2);
    const way = WAYS[event.key];
    if (way) {
      const most = [mask.width, mask.height];
      this.#at = this.#at.map((v, i) => Math.min(most[i], Math.max(0, v + step * way[i])));
      this.#ring();
    } else if (event.key === " ") {
      if (!event.repeat) this.#remember();
      this.#stroke(this.#at);
    } else return;
    event.preventDefault();
  }

  // Show where the brush is, and how wide.
  #ring() {
    const { width, height } = mask;
    const [x, y] = this.#at;
    const [w, h] = [100 / width, 100 / height];
    place($("ring"), x * w, y * h, this.#width * w, this.#width * h);
  }

  // Show the picture as large as fits, with a frame around what is added.
  #frame() {
    const [width, height] = this.#shape;
    const [left, right, top, bottom] = SIDES.map((side) => Math.max(0, Number($(side).value)));
    const [w, h] = [(width + left + right) / width, (height + top + bottom) / height];
    const scale = 100 / Math.max(w, h);
    const [x, y] = [50 - (w * scale) / 2, 50 - (h * scale) / 2];
    place($("frame"), x, y, w * scale, h * scale);
    place($("paper"), x + (left / width) * scale, y + (top / height) * scale, scale, scale);
  }
}

// In percent of what is around it.
function place({ style }, left, top, width, height) {
  for (const [name, value] of Object.entries({ left, top, width, height })) style[name] = `${value}%`;
}
