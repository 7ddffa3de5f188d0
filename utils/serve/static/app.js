// The page: state, and what its controls do.
import { BrowserModel, detectOnServer, fetchModel } from "./api.js";
import { saveImage, saveJson, saveLabels } from "./downloads.js";
import { draw, findAt, readSemantic } from "./draw.js";
import { closeVideo, listen, openVideo, openWebcam, sortFiles } from "./sources.js";

const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));
const state = { info: null, local: null, images: [], index: 0, stem: "image", bitmap: null, result: null,
  semantic: null, selected: null, hidden: new Set(), video: null, turn: 0 };

function say(text, isError = false) {
  element.status.textContent = text;
  element.status.classList.toggle("error", isError);
}

function visible() {
  const conf = Number(element.conf.value);
  return (state.result?.detections ?? []).filter((one) => one.score >= conf && !state.hidden.has(one.class));
}

async function detect(bitmap, blob) {
  if (!element.local.checked) return detectOnServer(blob);
  state.local ??= new BrowserModel(state.info);
  const { provider } = await state.local.ready;
  element["local-row"].title = provider;
  return state.local.detect(bitmap);
}

async function show(bitmap, result) {
  const semantic = await readSemantic(result.semantic);
  Object.assign(state, { bitmap, result, semantic, selected: null });
  element.canvas.hidden = false;
  element.drop.classList.add("filled");
  fillClasses();
  render();
}

async function openImage(blob, name) {
  const turn = ++state.turn;
  say(`Detecting in ${name}…`);
  try {
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" }).catch(() => {
      throw new Error(`${name} is not an image that this browser can read. Choose a JPEG, PNG or WebP file.`);
    });
    const start = performance.now();
    const result = await detect(bitmap, blob);
    if (turn !== state.turn) return;
    state.stem = name.replace(/\.[^.]*$/, "");
    await show(bitmap, result);
    say(`${name}: ${result.image.width} × ${result.image.height} pixels, ${Math.round(performance.now() - start)} ms`);
  } catch (error) {
    if (turn === state.turn) say(error.message, true);
  }
}

function openIndex(index) {
  if (index < 0 || index >= state.images.length) return;
  state.index = index;
  element.pager.hidden = state.images.length < 2;
  element.position.textContent = `${index + 1} of ${state.images.length}`;
  const file = state.images[index];
  openImage(file, file.name);
}

async function openFiles(files) {
  stop();
  try {
    const { images, video } = sortFiles(files);
    state.images = images;
    element.pager.hidden = true;
    if (video) await play(await openVideo(video), video.name);
    else openIndex(0);
  } catch (error) {
    say(error.message, true);
  }
}

async function play(video, name) {
  const turn = ++state.turn;
  Object.assign(state, { video, stem: name.replace(/\.[^.]*$/, "") });
  element.stop.hidden = false;
  const frame = document.createElement("canvas");
  try {
    while (state.video === video && !video.ended) {
      [frame.width, frame.height] = [video.videoWidth, video.videoHeight];
      frame.getContext("2d").drawImage(video, 0, 0);
      const blob = await new Promise((resolve) => frame.toBlob(resolve, "image/jpeg", 0.9));
      const bitmap = await createImageBitmap(frame);
      const start = performance.now();
      const result = await detect(bitmap, blob);
      if (turn !== state.turn) return;
      await show(bitmap, result);
      say(`${name}: ${Math.round(performance.now() - start)} ms per frame`);
    }
  } finally {
    if (state.video === video) stop();
  }
}

function stop() {
  if (state.video) closeVideo(state.video);
  state.video = null;
  state.turn++;
  element.stop.hidden = true;
}

async function startWebcam() {
  stop();
  try {
    await play(await openWebcam(), "webcam");
  } catch (error) {
    say(error.message, true);
  }
}

function fillClasses() {
  const names = new Map(state.result.detections.map((one) => [one.class, one.name]));
  const rows = [...names].sort(([a], [b]) => a - b).map(([number, name]) => {
    const label = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: !state.hidden.has(number) });
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(number); else state.hidden.add(number);
      render();
    });
    label.append(box, ` ${name}`);
    return label;
  });
  element.classes.replaceChildren(element.classes.firstElementChild, ...rows);
  element.classes.hidden = rows.length === 0;
}

function render() {
  element["conf-value"].textContent = Number(element.conf.value).toFixed(2);
  if (!state.result) return;
  const detections = visible();
  if (!detections.includes(state.selected)) state.selected = null;
  const { semantic, selected } = state;
  draw(element.canvas, state.bitmap, { detections, semantic, selected, colors: state.info?.colors ?? {} });
  element.count.textContent = detections.length;
  element.list.replaceChildren(...detections.map(toRow), ...(state.result.classification ?? []).map(toText));
  showDetails();
  for (const id of ["save-json", "save-labels", "save-image"]) element[id].disabled = false;
}

function toRow(one) {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", one === state.selected);
  const score = document.createElement("span");
  score.textContent = one.score.toFixed(2);
  button.append(one.name, score);
  button.addEventListener("click", () => {
    const place = [...element.list.children].indexOf(item);
    select(one);
    element.list.children[place]?.firstElementChild.focus();
  });
  item.append(button);
  return item;
}

function toText({ name, score }) {
  const item = document.createElement("li");
  item.textContent = `${name} ${score.toFixed(2)}`;
  return item;
}

function select(one) {
  state.selected = one;
  render();
}

function showDetails() {
  const one = state.selected;
  element.details.hidden = one === null;
  if (!one) return;
  const [x1, y1, x2, y2] = one.box.map((value) => value.toFixed(1));
  element.details.textContent =
    `${one.name}, class ${one.class}, score ${one.score.toFixed(3)}. x ${x1} to ${x2}, y ${y1} to ${y2} pixels.`;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=range]")) return;
  const actions = {
    o: () => element.file.click(), w: startWebcam, Escape: stop,
    j: () => element["save-json"].click(), l: () => element["save-labels"].click(), i: () => element["save-image"].click(),
    ArrowLeft: () => openIndex(state.index - 1), ArrowRight: () => openIndex(state.index + 1),
  };
  actions[event.key]?.();
}

function connect() {
  listen(element, openFiles);
  document.addEventListener("keydown", onKey);
  element.conf.addEventListener("input", render);
  element.webcam.addEventListener("click", startWebcam);
  element.stop.addEventListener("click", stop);
  element.previous.addEventListener("click", () => openIndex(state.index - 1));
  element.next.addEventListener("click", () => openIndex(state.index + 1));
  element.local.addEventListener("change", () => { if (state.images.length) openIndex(state.index); });
  element.canvas.addEventListener("click", ({ offsetX, offsetY }) => {
    const scale = element.canvas.width / element.canvas.clientWidth;
    select(findAt(visible(), offsetX * scale, offsetY * scale));
  });
  element["save-json"].addEventListener("click", () => saveJson({ ...state.result, detections: visible() }, state.stem));
  element["save-labels"].addEventListener("click", () => saveLabels(visible(), state.result.image, state.stem));
  element["save-image"].addEventListener("click", () => saveImage(element.canvas, state.stem));
}

async function start() {
  connect();
  const address = document.documentElement.dataset.model;
  try {
    state.info = await fetchModel(address);
    element.model.textContent = `${state.info.name}: ${state.info.task}, ${Object.keys(state.info.names).length} classes`;
    const isStatic = address === "model.json"; // without a server
    element["local-row"].hidden = !state.info.browser;
    Object.assign(element.local, { checked: isStatic, disabled: isStatic });
    say(isStatic ? "Images stay in this browser." : "");
  } catch (error) {
    element.model.textContent = "";
    say(error.message, true);
  }
}

start();
