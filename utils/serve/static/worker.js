// Runs the ONNX model with onnxruntime-web, on WebGPU where there is one, or else in WebAssembly.
import { decode, fitSize, letterbox, scaleBox, suppress } from "./vision.js";

let ort, session, info;

async function createSession(bytes, folder, provider) {
  ort = await import(new URL(provider === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs", folder));
  ort.env.wasm.wasmPaths = folder;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  return ort.InferenceSession.create(bytes, { executionProviders: [provider] });
}

async function load(message) {
  info = message.info;
  const answer = await fetch(message.model);
  if (!answer.ok) throw new Error(`the model could not be loaded (${answer.status})`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  let provider = adapter ? "webgpu" : "wasm";
  try {
    session = await createSession(bytes, message.runtime, provider);
  } catch (error) {
    if (provider === "wasm") throw error;
    provider = "wasm";
    session = await createSession(bytes, message.runtime, provider);
  }
  return { provider };
}

async function detect({ pixels, height, width, conf, iou, maxDetections }) {
  const start = performance.now();
  const fit = fitSize(height, width, info.imgsz, info);
  const input = new ort.Tensor("float32", letterbox(pixels, height, width, fit), [1, 3, fit.height, fit.width]);
  const prepared = performance.now();
  const output = (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]];
  const ran = performance.now();
  const found = suppress(decode(output.data, output.dims[1], output.dims[2], conf), iou, maxDetections);
  const detections = found.map((one) => ({
    class: one.class, name: info.names[one.class] ?? String(one.class), score: one.score,
    box: scaleBox(one.box, fit, height, width),
  }));
  output.dispose();
  return {
    model: { name: info.name, task: info.task }, image: { width, height }, detections,
    ms: { decode: prepared - start, wait: 0, inference: ran - prepared, postprocess: performance.now() - ran },
  };
}

self.onmessage = async ({ data }) => {
  try {
    const result = await (data.kind === "load" ? load(data) : detect(data));
    self.postMessage({ id: data.id, result });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
};
