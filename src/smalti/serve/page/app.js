// The page: reads what is asked for, has it drawn, and shows the pictures as they grow.

import { Classes } from "./classes.js";
import { Desk } from "./desk.js";
import { $, make } from "./dom.js";
import { Gallery } from "./gallery.js";
import { draw, fileOf, models, setKey } from "./server.js";
import { Viewer } from "./viewer.js";

const SETTINGS = ["guidance", "temperature", "top_k", "top_p", "steps"];
const STEPS = 4; // three pictures on the way, and the last

const classes = new Classes($("class"), $("classes"));
const desk = new Desk();
const gallery = new Gallery();
const viewer = new Viewer(gallery, { edit: editPicture, reuse });
let known = []; // models
let running = null; // what cancels the request that is being answered

const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const model = () => known.find((one) => one.id === $("model").value).smalti;
const editing = () => checked("mode") === "edit";

// -- what is asked for

function fields() {
  const about = model();
  const asked = { model: $("model").value, n: Number(checked("n")) };
  if (about.text) {
    asked.prompt = $("text").value.trim();
    if ($("negative").value.trim()) asked.negative = $("negative").value.trim();
    if (!asked.prompt && !editing()) throw new Mistake("Say what to draw.", $("text"));
  } else if (classes.number !== null) asked.class = classes.number;
  else if ($("class").value.trim()) asked.prompt = $("class").value.trim(); // the server names near ones
  else throw new Mistake("Choose a class.", $("class"));
  for (const name of ["seed", "first", ...SETTINGS]) {
    if ($(name).value !== "" && !$(name).closest(".field").hidden) asked[name] = Number($(name).value);
  }
  return asked;
}

async function edit(asked) {
  if (!desk.loaded) throw new Mistake("Open the picture that is to be edited.", $("file"));
  const files = await desk.files();
  if (desk.extend) asked.extend = desk.extend;
  if (!files.mask && !desk.extend) {
    throw new Mistake("Paint over what is to change, or add pixels at a side.", $("mask"));
  }
  asked.keep_pixels = $("keep").checked;
  return files;
}

class Mistake extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

// -- drawing

async function run() {
  if (running) return;
  hideAlert();
  const stop = (running = new AbortController());
  const began = performance.now();
  const clock = setInterval(() => ($("clock").textContent = seconds(began)), 100);
  busy(true);
  try {
    const asked = fields();
    const files = editing() ? await edit(asked) : null;
    const title = asked.prompt || (asked.class === undefined ? "Untitled" : classes.title(asked.class));
    say("Waiting for the first picture.");
    emptyTiles(asked.n, true);
    await draw(asked, files, stop.signal, (event) => show(event, asked, title));
    say(`Done in ${seconds(began)}.`);
  } catch (error) {
    failed(error);
  } finally {
    clearInterval(clock);
    busy(false);
  }
}

const seconds = (began) => `${((performance.now() - began) / 1000).toFixed(1)} s`;

function busy(is) {
  if (!is) running = null;
  $("go").disabled = is;
  $("stop").disabled = !is;
  $("stage").setAttribute("aria-busy", String(is));
  if (is) $("progress").value = 0;
  if (!is) for (const tile of $("tiles").children) tile.classList.remove("drawing");
  if (!is && document.activeElement === document.body) $("go").focus();
}

function failed(error) {
  $("progress").value = 0;
  if (error.name === "AbortError") return say("Cancelled.");
  say("Nothing was drawn.");
  if (error.status === 401) return askForKey(run);
  if (!(error instanceof Mistake || "status" in error)) console.error(error);
  const wait = error.retry ? ` Try again in ${error.retry} s.` : "";
  const dot = /[.?!]$/.test(error.message) ? "" : ".";
  showAlert(error.message[0].toUpperCase() + error.message.slice(1) + dot + wait, error.field);
}

function show(event, asked, title) {
  const tile = $("tiles").children[event.index];
  const last = event.type.endsWith("completed");
  const step = last ? STEPS : event.partial_image_index + 1;
  const file = fileOf(event);
  tile.dataset.step = step;
  tile.classList.toggle("drawing", !last);
  paint(tile, file, last ? title : `${title}, not finished`);
  const steps = [...$("tiles").children].map((one) => Number(one.dataset.step));
  $("progress").value = steps.reduce((sum, one) => sum + one, 0) / (STEPS * asked.n);
  say(`Drawing: ${steps.filter((one) => one === STEPS).length} of ${asked.n} finished.`);
  if (!last) return;
  const picture = { made: Date.now(), model: asked.model, title, about: event.smalti, file };
  gallery.add(picture).then(() => viewer.list());
  const open = tile.querySelector("button");
  open.disabled = false;
  open.onclick = () => viewer.open(picture);
}

function emptyTiles(n, drawing = false) {
  $("tiles").dataset.n = n;
  $("tiles").replaceChildren(...Array.from({ length: n }, () => emptyTile(drawing)));
}

function emptyTile(drawing) {
  const open = make("button", { type: "button", disabled: true, ariaLabel: "No picture yet" });
  const tile = make("li", { className: drawing ? "drawing" : "" }, open);
  tile.dataset.step = 0;
  return tile;
}

function paint(tile, file, alt) {
  const open = tile.querySelector("button");
  const image = open.querySelector("img") ?? open.appendChild(make("img"));
  const before = image.src;
  image.src = URL.createObjectURL(file);
  image.alt = alt;
  image.onload = () => image.classList.toggle("coarse", image.naturalWidth < 160);
  open.removeAttribute("aria-label");
  if (before) URL.revokeObjectURL(before);
}

// -- what is said

const say = (text) => ($("status").textContent = text);

function showAlert(text, field) {
  $("alert-text").textContent = text;
  $("again").hidden = Boolean(field);
  $("alert").hidden = false;
  field?.focus();
}

const hideAlert = () => ($("alert").hidden = true);

function askForKey(then) {
  $("key-form").onsubmit = () => {
    setKey($("key").value);
    $("key").value = "";
    then();
  };
  $("asking").showModal();
}

// -- models, modes and pictures to edit

async function start() {
  try {
    known = await models();
  } catch (error) {
    if (error.status === 401) return askForKey(start);
    $("again").onclick = start;
    return showAlert(error.message);
  }
  $("again").onclick = run;
  hideAlert();
  $("model").replaceChildren(...known.map((one) => make("option", { textContent: one.id })));
  chooseModel();
  $("go").disabled = false;
}

function chooseModel() {
  const about = model();
  const [width, height] = about.size.split("x");
  document.documentElement.style.setProperty("--shape", `${width} / ${height}`);
  $("text-field").hidden = $("negative-field").hidden = !about.text;
  $("class-field").hidden = about.text;
  classes.names = about.classes ?? [];
  for (const name of SETTINGS) {
    const usual = about.sampling[name];
    $(name).closest(".field").hidden = usual === undefined;
    $(name).placeholder = usual ?? "auto";
    $(name).value = "";
  }
  $("first").value = "";
}

function chooseMode() {
  $("desk").hidden = !editing();
  $("go").textContent = editing() ? "Paint" : "Draw";
  hideAlert();
}

async function editPicture(file) {
  $("mode-edit").checked = true;
  chooseMode();
  try {
    await desk.load(file, ...model().size.split("x").map(Number));
    say("Paint over what is to change, or add pixels at the sides.");
    $("mask").focus();
  } catch {
    showAlert("This file is no picture that can be opened: take a PNG, a JPEG or a WEBP.", $("file"));
  }
}

// Ask for the same picture as one of the gallery.
function reuse({ about, model: name }) {
  if (known.some((one) => one.id === name)) $("model").value = name;
  chooseModel();
  $("mode-draw").checked = true;
  chooseMode();
  if (about.text !== undefined) $("text").value = about.text;
  $("negative").value = about.negative ?? "";
  if (typeof about.class === "number") classes.number = about.class;
  document.querySelector("input[name=n]").checked = true;
  $("seed").value = about.seed;
  $("first").value = about.index || "";
  for (const name of SETTINGS) {
    if (Number(about[name]) !== Number(model().sampling[name])) $(name).value = about[name] ?? "";
  }
  emptyTiles(1);
  $("go").focus();
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function switchTheme() {
  const theme = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("smalti.theme", theme);
  $("theme").setAttribute("aria-pressed", String(dark()));
}

// -- what is done where

$("order").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("settings").addEventListener("invalid", () => ($("settings").open = true), true);
$("stop").addEventListener("click", () => running?.abort());
$("dismiss").addEventListener("click", hideAlert);
$("model").addEventListener("change", chooseModel);
$("theme").addEventListener("click", switchTheme);
$("key-cancel").addEventListener("click", () => $("asking").close());
$("file").addEventListener("change", () => $("file").files[0] && editPicture($("file").files[0]));
$("reset").addEventListener("click", () => {
  for (const name of ["seed", "first", "negative", ...SETTINGS]) $(name).value = "";
});
for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", chooseMode);
for (const input of document.querySelectorAll("input[name=n]")) {
  input.addEventListener("change", () => running || emptyTiles(Number(checked("n"))));
}
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) editPicture(event.dataTransfer.files[0]);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("order").requestSubmit($("go"));
  if (event.key === "Escape" && running && !event.defaultPrevented) running.abort();
});

$("theme").setAttribute("aria-pressed", String(dark()));
chooseMode();
emptyTiles(Number(checked("n")));
if (!(await gallery.open())) $("nothing").textContent = "This browser keeps no pictures: they go with this page.";
viewer.list();
start();
