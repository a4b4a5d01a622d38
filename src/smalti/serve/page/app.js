// Reads what is asked for, has it drawn, and shows the pictures as they grow.

import { Classes } from "./classes.js";
import { Desk } from "./desk.js";
import { $, bitmap, fit, make, mistake, pngOf, show } from "./dom.js";
import { Gallery } from "./gallery.js";
import { draw, fileOf, models, Refusal, setKey } from "./server.js";
import { Viewer } from "./viewer.js";

const SETTINGS = ["guidance", "temperature", "top_k", "top_p", "steps"];
const STEPS = 4; // three pictures on the way, and the last

const classes = new Classes($("class"), $("classes"));
const desk = new Desk();
const gallery = new Gallery();
const viewer = new Viewer(gallery, editPicture, reuse);
let known = []; // models
let opened; // the file of a map
let running = null; // what cancels the request that is being answered

const model = () => known.find((one) => one.id === $("model").value).smalti;
const size = () => model().size.split("x").map(Number);
const editing = () => $("mode-edit").checked;
const count = () => Number(document.querySelector("[name=n]:checked").value);
const fieldOf = (id) => $(id).closest(".field");
const map = () => (model().map ? opened : null);
const say = (text) => ($("status").textContent = text);

// -- what is asked for

function fields() {
  const asked = { model: $("model").value, n: count() };
  for (const name of ["seed", "first", ...SETTINGS]) {
    if ($(name).value && !fieldOf(name).hidden) asked[name] = Number($(name).value);
  }
  if (model().map) return asked;
  if (model().text) {
    const text = $("text").value;
    if (text.trim() || (editing() && model().talks)) asked.prompt = text;
    else if (!editing()) throw mistake("Say what to draw", $("text"));
    for (const name of ["negative", "style"]) if ($(name).value) asked[name] = $(name).value;
  } else if (classes.number !== null) asked.class = classes.number;
  else if ($("class").value) asked.prompt = $("class").value;
  else throw mistake("Choose a class", $("class"));
  return asked;
}

// The middle of the map, of this size; as it was opened if it has it, and where pixels are numbers.
async function mapOf(width, height) {
  const image = await bitmap(map(), $("map"));
  if (model().map === "segmentation" || (image.width === width && image.height === height)) return map();
  return pngOf(fit(image, make("canvas", { width, height })));
}

async function edit(asked) {
  if (!desk.loaded) throw mistake("Open the picture that is to be edited", $("file"));
  const files = await desk.files();
  if (desk.extend) asked.extend = desk.extend;
  if (desk.extend || files.mask) asked.keep_pixels = $("keep").checked;
  else if (!model().talks) throw mistake("Paint over what is to change, or add pixels at a side", $("mask"));
  if (map()) files.map = await mapOf($("mask").width, $("mask").height);
  return files;
}

// -- drawing

async function run() {
  if (running) return;
  $("alert").hidden = true;
  running = new AbortController();
  const began = performance.now();
  const seconds = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
  const clock = setInterval(() => ($("clock").textContent = seconds()), 100);
  busy(true);
  try {
    say("Waiting for the first picture.");
    const asked = fields();
    const from = map();
    const files = editing() ? await edit(asked) : from && { image: await mapOf(...size()) };
    const title = asked.prompt ?? from?.name ?? classes.title(asked.class ?? "Edited");
    emptyTiles(asked.n);
    $("state").scrollIntoView({ block: "nearest" });
    await draw(asked, files, running.signal, (event) => grow(event, asked, event.smalti.text ?? title, from));
    say("Done.");
  } catch (error) {
    failed(error);
  }
  $("clock").textContent = seconds();
  clearInterval(clock);
  busy(false);
}

function busy(is) {
  if (!is) running = null;
  const had = [$("go"), $("stop")].includes(document.activeElement);
  $("go").disabled = is;
  $("stop").disabled = !is;
  if (had) $(is ? "stop" : "go").focus(); // what is disabled loses the focus
  $("stage").ariaBusy = String(is);
  $("progress").value = is ? 0 : Math.floor($("progress").value);
}

function failed(error) {
  if (error.name === "AbortError") return say("Cancelled.");
  say("Not drawn.");
  if (error.status === 401) return askForKey(run);
  if (!error.field && !(error instanceof Refusal)) console.error(error);
  alarm(error);
}

// Show a picture of a stream.
function grow(event, asked, title, map) {
  const tiles = [...$("tiles").children];
  const tile = tiles[event.index];
  const done = event.type.endsWith("completed");
  const file = fileOf(event);
  const open = tile.firstChild;
  const image = open.querySelector("img") ?? open.appendChild(make("img"));
  URL.revokeObjectURL(image.src);
  show(image, URL.createObjectURL(file), done ? title : `${title}, unfinished`);
  tile.dataset.step = done ? STEPS : event.partial_image_index + 1;
  const steps = tiles.map((one) => Number(one.dataset.step ?? 0));
  $("progress").value = steps.reduce((sum, one) => sum + one) / (STEPS * asked.n);
  say(`${steps.filter((one) => one === STEPS).length} of ${asked.n} finished.`);
  if (!done) return;
  const picture = { id: Date.now() + Math.random(), model: asked.model, title, about: event.smalti, file, map };
  gallery.add(picture).then(() => viewer.list());
  Object.assign(open, { disabled: false, ariaLabel: null, onclick: () => viewer.open(picture) });
}

function emptyTiles(n) {
  const tile = () => make("li", {}, make("button", { disabled: true, ariaLabel: "No picture yet" }));
  $("tiles").replaceChildren(...Array.from({ length: n }, tile));
}

// Tell what went wrong, and where.
function alarm({ message, field, retry }, again = run) {
  const text = message[0].toUpperCase() + message.slice(1);
  $("alert-text").textContent = retry ? `${text}. There may be a place in ${retry} s.` : text;
  $("again").hidden = Boolean(field);
  $("again").onclick = again;
  $("alert").hidden = false;
  field?.focus();
}

function askForKey(then) {
  $("key-form").onsubmit = () => {
    setKey($("key").value);
    $("key").value = "";
    then();
  };
  $("asking").showModal();
}

// -- models, modes, and pictures of the gallery

async function start() {
  $("alert").hidden = true;
  try {
    known = (await models()).filter((one) => one.smalti.size); // those that draw
    if (!known.length) throw mistake("No model here draws");
  } catch (error) {
    return error.status === 401 ? askForKey(start) : alarm(error, start);
  }
  $("model").replaceChildren(...known.map(({ id }) => make("option", {}, id)));
  chooseModel();
  $("order").hidden = false;
}

function chooseModel() {
  const { text, styles, classes: names, sampling, map: kind } = model();
  document.documentElement.style.setProperty("--shape", size().join("/"));
  $("kind").textContent = `a map: ${kind}`;
  const shown = { text, negative: text, class: !text && !kind, style: styles.length, map: kind };
  for (const id in shown) fieldOf(id).hidden = !shown[id];
  $("style").replaceChildren(...["", ...styles].map((name) => make("option", {}, name)));
  classes.names = names;
  for (const name of SETTINGS) {
    fieldOf(name).hidden = sampling[name] === undefined;
    Object.assign($(name), { value: "", placeholder: sampling[name] ?? "auto" });
  }
}

function chooseMode() {
  $("desk").hidden = !editing();
  $("go").textContent = editing() ? "Paint" : "Draw";
}

async function editPicture(file) {
  $("mode-edit").checked = true;
  chooseMode();
  try {
    await desk.load(file, ...size());
    $("mask").focus();
  } catch (error) {
    alarm(error);
  }
}

function openMap(file) {
  opened = file;
  URL.revokeObjectURL($("seen").src);
  show($("seen"), URL.createObjectURL(file), "The map").hidden = false;
}

// Ask for the same picture as one of the gallery.
function reuse({ about, model: name, map: from }) {
  if (known.some(({ id }) => id === name)) $("model").value = name;
  chooseModel();
  $("mode-draw").checked = $("order").elements.n[0].checked = true;
  chooseMode();
  emptyTiles(1);
  if (about.class >= 0) classes.number = about.class;
  if (from) openMap(from);
  const told = { ...about, first: about.index || "" };
  for (const name of ["text", "negative", "seed", "first"]) $(name).value = told[name] ?? "";
  for (const name of SETTINGS) {
    if (String(about[name]) !== String(model().sampling[name])) $(name).value = about[name];
  }
  $("go").focus();
}

// -- what happens when

$("theme").onclick = () => {
  const { dataset } = document.documentElement;
  localStorage.setItem("smalti.theme", (dataset.theme = dataset.theme === "dark" ? "light" : "dark"));
};
$("order").onsubmit = (event) => {
  event.preventDefault();
  run();
};
$("order").onchange = ({ target }) => {
  if (target.name === "mode") chooseMode();
  if (target.name === "n" && !running) emptyTiles(count());
};
$("settings").addEventListener("invalid", () => ($("settings").open = true), true);
$("stop").onclick = () => running.abort();
$("dismiss").onclick = () => ($("alert").hidden = true);
$("model").onchange = chooseModel;
for (const [id, open] of [["map", openMap], ["file", editPicture]]) {
  $(id).onchange = ({ target }) => target.files[0] && open(target.files[0]);
}

chooseMode();
emptyTiles(count());
await gallery.open();
viewer.list();
start();
