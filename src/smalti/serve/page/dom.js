// Elements by their id, new ones, and pictures in them.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Small pictures show their pixels.
export function show(image, address, alt) {
  image.onload = () => image.classList.toggle("coarse", image.naturalWidth < 160);
  return Object.assign(image, { src: address, alt });
}
