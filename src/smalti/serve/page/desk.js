// Where a picture lies while it is edited: a mask is painted over it, and pixels are added at its
// sides. Picture and mask have the shape that the model draws.

import { $ } from "./dom.js";

const SIDES = ["left", "right", "top", "bottom"];
const PAINT = "#e4572e";
const LARGEST = 1024; // pixels of a side that are sent
const UNDONE = 20; // strokes that can be taken back

export class Desk {
  #picture = $("picture").getContext("2d");
  #mask = $("mask").getContext("2d", { willReadFrequently: true });
  #before = [];
  #last = null; // where the brush is down
  #at = [0, 0]; // where the brush is
  loaded = false;

  constructor() {
    const mask = $("mask");
    mask.addEventListener("pointerdown", (event) => this.#down(event));
    mask.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      mask.addEventListener(end, () => (this.#last = null));
    }
    mask.addEventListener("keydown", (event) => this.#key(event));
    $("undo").addEventListener("click", () => this.undo());
    $("clear").addEventListener("click", () => this.clear());
    $("brush").addEventListener("input", () => this.#ring());
    for (const side of SIDES) $(side).addEventListener("input", () => this.#frame());
  }

  // Put a picture there: the middle of it that has the shape width x height.
  async load(file, width, height) {
    const image = await createImageBitmap(file);
    const cut = Math.min(image.width / width, image.height / height);
    const scale = Math.min(cut, Math.max(1, LARGEST / Math.max(width, height)));
    const size = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    for (const context of [this.#picture, this.#mask]) {
      [context.canvas.width, context.canvas.height] = size;
      context.canvas.classList.toggle("coarse", Math.max(...size) < 160);
    }
    const [w, h] = [width * cut, height * cut];
    this.#picture.imageSmoothingQuality = "high";
    this.#picture.fillStyle = "#fff"; // behind what is transparent
    this.#picture.fillRect(0, 0, ...size);
    this.#picture.drawImage(image, (image.width - w) / 2, (image.height - h) / 2, w, h, 0, 0, ...size);
    for (const side of SIDES) $(side).value = 0;
    [this.loaded, this.#before, this.#at] = [true, [], [size[0] / 2, size[1] / 2]];
    this.shape = [width, height];
    $("sheet").classList.add("loaded");
    this.#frame();
    this.#ring();
  }

  get extend() {
    const added = SIDES.map((side) => [side, Number($(side).value)]).filter(([, pixels]) => pixels > 0);
    return added.map(([side, pixels]) => `${side}=${pixels}`).join(",");
  }

  // The picture, and a mask that is white where it is to be painted anew, if anything is.
  async files() {
    const { width, height } = $("mask");
    const mask = this.#mask.getImageData(0, 0, width, height);
    let any = false;
    for (let i = 0; i < mask.data.length; i += 4) {
      const painted = mask.data[i + 3] > 127;
      mask.data.fill(painted ? 255 : 0, i, i + 3);
      mask.data[i + 3] = 255;
      any ||= painted;
    }
    const files = { image: await fileOf($("picture")) };
    if (any) {
      const sheet = Object.assign(document.createElement("canvas"), { width, height });
      sheet.getContext("2d").putImageData(mask, 0, 0);
      files.mask = await fileOf(sheet);
    }
    return files;
  }

  undo() {
    const before = this.#before.pop();
    if (before) this.#mask.putImageData(before, 0, 0);
  }

  clear() {
    if (!this.loaded) return;
    this.#remember();
    this.#mask.clearRect(0, 0, $("mask").width, $("mask").height);
  }

  #remember() {
    this.#before.push(this.#mask.getImageData(0, 0, $("mask").width, $("mask").height));
    this.#before.splice(0, this.#before.length - UNDONE);
  }

  get #width() {
    return (Number($("brush").value) / 100) * $("mask").width;
  }

  #place(event) {
    const { left, top, width, height } = $("mask").getBoundingClientRect();
    const { width: w, height: h } = $("mask");
    return [((event.clientX - left) / width) * w, ((event.clientY - top) / height) * h];
  }

  #down(event) {
    if (!this.loaded || event.button) return;
    $("mask").setPointerCapture(event.pointerId);
    this.#remember();
    this.#at = this.#last = this.#place(event);
    this.#stroke(this.#last, this.#last);
  }

  #move(event) {
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      this.#at = this.#place(one);
      if (this.#last) this.#stroke(this.#last, this.#at);
      this.#last &&= this.#at;
    }
    this.#ring();
  }

  #stroke([x, y], [toX, toY]) {
    const mask = this.#mask;
    mask.globalCompositeOperation = $("erase").checked ? "destination-out" : "source-over";
    mask.strokeStyle = PAINT;
    mask.lineWidth = this.#width;
    mask.lineCap = "round";
    mask.beginPath();
    mask.moveTo(x, y);
    mask.lineTo(toX + 1e-3, toY); // a point is drawn too
    mask.stroke();
  }

  // Arrows move the brush, the space bar puts it down; Ctrl+Z takes back.
  #key(event) {
    const step = event.shiftKey ? 1 : Math.max(1, this.#width / 2);
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!this.loaded) return;
    if (way) {
      const most = [$("mask").width, $("mask").height];
      this.#at = this.#at.map((v, i) => Math.min(most[i], Math.max(0, v + step * way[i])));
    } else if (event.key === " ") {
      if (!event.repeat) this.#remember();
      this.#stroke(this.#at, this.#at);
    } else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
      this.undo();
    } else return;
    event.preventDefault();
    this.#ring();
  }

  // The ring that shows where the brush is, and how wide.
  #ring() {
    const { width, height } = $("mask");
    const style = $("ring").style;
    style.left = `${(100 * this.#at[0]) / width}%`;
    style.top = `${(100 * this.#at[1]) / height}%`;
    style.width = `${(100 * this.#width) / width}%`;
  }

  // The picture as large as fits with what is added around it, which the frame shows.
  #frame() {
    const [left, right, top, bottom] = SIDES.map((side) => Math.max(0, Number($(side).value)));
    const [width, height] = this.shape ?? [1, 1];
    const [w, h] = [(width + left + right) / width, (height + top + bottom) / height];
    const scale = 100 / Math.max(w, h);
    place($("frame"), (100 - w * scale) / 2, (100 - h * scale) / 2, w * scale, h * scale);
    const [x, y] = [(left / width) * scale, (top / height) * scale];
    place($("paper"), (100 - w * scale) / 2 + x, (100 - h * scale) / 2 + y, scale, scale);
  }
}

function place(element, left, top, width, height) {
  const values = { left, top, width, height };
  for (const [name, value] of Object.entries(values)) element.style[name] = `${value}%`;
}

const fileOf = (canvas) => new Promise((done) => canvas.toBlob(done, "image/png"));
