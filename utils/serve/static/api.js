// Detection by the server, or by the worker of this page. Both answer as POST /v1/detect does.

const LOWEST_CONF = 0.05; // the slider filters what was found above it
const IOU = 0.45, MAX_DETECTIONS = 300;

/** Description of the model, or an Error with words for people. */
export async function fetchModel(address) {
  return readJson(await reach(address));
}

async function reach(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it running?");
  }
}

async function readJson(answer) {
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.error ?? `The server answered with status ${answer.status}.`);
  if (body === null) throw new Error("The server's answer is not JSON.");
  return body;
}

/** Detections of an image file by the server. */
export async function detectOnServer(blob, signal) {
  const query = new URLSearchParams({ conf: LOWEST_CONF, iou: IOU, max_det: MAX_DETECTIONS });
  const headers = { "Content-Type": blob.type.startsWith("image/") ? blob.type : "application/octet-stream" };
  return readJson(await reach(`v1/detect?${query}`, { method: "POST", body: blob, headers, signal }));
}

/** The model in a worker. */
export class BrowserModel {
  constructor(info) {
    this.waiting = new Map();
    this.lastId = 0;
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error) reject(new Error(`The model cannot run in this browser: ${data.error}`));
      else resolve(data.result);
    };
    this.worker.onerror = () => {
      for (const { reject } of this.waiting.values()) reject(new Error("The worker of this page could not start."));
      this.waiting.clear();
    };
    const model = new URL(info.browser.model, document.baseURI).href;
    const runtime = new URL("ort/", model).href;
    this.ready = this.send({ kind: "load", info, model, runtime });
  }

  send(message, transfer = []) {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ ...message, id }, transfer);
    });
  }

  /** Detections of a bitmap. */
  async detect(bitmap) {
    await this.ready;
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    const settings = { conf: LOWEST_CONF, iou: IOU, maxDetections: MAX_DETECTIONS };
    return this.send({ kind: "detect", pixels, width, height, ...settings }, [pixels.buffer]);
  }
}
