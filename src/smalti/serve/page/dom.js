// Elements by their id, new ones, and pictures in them.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const mistake = (message, field) => Object.assign(new Error(message), { field });

// The picture in the file of a field.
export const bitmap = (file, field) =>
  createImageBitmap(file).catch(() => {
    throw mistake("This is no picture that can be opened", field);
  });

// The middle of a picture, over white, on a canvas of another shape.
export function fit(image, canvas) {
  const { width: w, height: h } = canvas;
  const cut = Math.min(image.width / w, image.height / h);
  const pen = Object.assign(canvas.getContext("2d"), { imageSmoothingQuality: "high", fillStyle: "#fff" });
  pen.fillRect(0, 0, w, h);
  pen.drawImage(image, (image.width - w * cut) / 2, (image.height - h * cut) / 2, w * cut, h * cut, 0, 0, w, h);
  return canvas;
}

export const pngOf = (canvas) => new Promise((done) => canvas.toBlob(done, "image/png"));

// Small pictures show their pixels.
export function show(image, address, alt) {
  image.onload = () => image.classList.toggle("coarse", image.naturalWidth < 160);
  return Object.assign(image, { src: address, alt });
}
