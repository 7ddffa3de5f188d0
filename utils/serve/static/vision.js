// Letterbox, decoding and NMS, as utils/imaging/letterbox.py and utils/ops/nms.py do them.

const GRAY = 114;

/** Nearest integer; halves go to the even one, as in Python. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Place of an image of (height, width) in the input: inner size, padding and input size, pixels. */
export function fitSize(height, width, [targetHeight, targetWidth], { fixed, stride }) {
  const ratio = Math.min(targetHeight / height, targetWidth / width);
  const innerHeight = Math.max(1, roundHalfEven(height * ratio));
  const innerWidth = Math.max(1, roundHalfEven(width * ratio));
  let [borderHeight, borderWidth] = [targetHeight - innerHeight, targetWidth - innerWidth];
  if (!fixed) [borderHeight, borderWidth] = [borderHeight % stride, borderWidth % stride];
  return {
    innerHeight, innerWidth,
    top: Math.floor(borderHeight / 2), left: Math.floor(borderWidth / 2),
    height: innerHeight + borderHeight, width: innerWidth + borderWidth,
    ratioX: innerWidth / width, ratioY: innerHeight / height,
  };
}

/** Source pixels and weights of bilinear interpolation with aligned pixel edges, along one axis. */
function interpolate(from, to) {
  const low = new Int32Array(to), high = new Int32Array(to), weight = new Int32Array(to);
  for (let i = 0; i < to; i++) {
    const position = Math.min(Math.max((i + 0.5) * from / to - 0.5, 0), from - 1);
    low[i] = Math.floor(position);
    high[i] = Math.min(low[i] + 1, from - 1);
    weight[i] = roundHalfEven(2048 * (position - low[i])); // fixed point of 11 bits, as in cv2.resize
  }
  return { low, high, weight };
}

/** RGBA pixels (H, W, 4) to the input (3, height, width), 0 to 1, letterboxed. */
export function letterbox(pixels, height, width, fit) {
  const plane = fit.height * fit.width;
  const input = new Float32Array(3 * plane).fill(GRAY / 255);
  const rows = interpolate(height, fit.innerHeight), columns = interpolate(width, fit.innerWidth);
  for (let y = 0; y < fit.innerHeight; y++) {
    const upper = rows.low[y] * width, lower = rows.high[y] * width, wy = rows.weight[y];
    for (let x = 0; x < fit.innerWidth; x++) {
      const left = columns.low[x], right = columns.high[x], wx = columns.weight[x];
      const out = (y + fit.top) * fit.width + x + fit.left;
      for (let c = 0; c < 3; c++) {
        const a = pixels[4 * (upper + left) + c], b = pixels[4 * (upper + right) + c];
        const d = pixels[4 * (lower + left) + c], e = pixels[4 * (lower + right) + c];
        const above = (a * (2048 - wx) + b * wx) >> 4, below = (d * (2048 - wx) + e * wx) >> 4;
        input[c * plane + out] = (((above * (2048 - wy)) >> 16) + ((below * wy) >> 16) + 2 >> 2) / 255;
      }
    }
  }
  return input;
}

/** Rows of x, y, w, h, objectness, class probabilities to candidates {box, score, class} above `conf`. */
export function decode(output, numRows, rowLength, conf) {
  const candidates = [];
  for (let start = 0; start < numRows * rowLength; start += rowLength) {
    const objectness = output[start + 4];
    if (!(objectness > conf)) continue;
    let best = 0, score = -1;
    for (let c = 0; c < rowLength - 5; c++) {
      const value = objectness * output[start + 5 + c];
      if (value > score) [best, score] = [c, value];
    }
    if (!(score > conf)) continue;
    const [x, y, w, h] = output.subarray(start, start + 4);
    candidates.push({ class: best, score, box: [x - w / 2, y - h / 2, x + w / 2, y + h / 2] });
  }
  return candidates;
}

/** Intersection over union of two boxes x1, y1, x2, y2. */
export function iou(a, b) {
  const w = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const h = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (w <= 0 || h <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return w * h / (area(a) + area(b) - w * h);
}

/** Greedy NMS within each class, best first. */
export function suppress(candidates, iouThreshold, maxDetections) {
  const kept = [];
  for (const candidate of candidates.sort((a, b) => b.score - a.score)) {
    if (kept.length >= maxDetections) break;
    const isCovered = (better) => better.class === candidate.class && iou(better.box, candidate.box) > iouThreshold;
    if (!kept.some(isCovered)) kept.push(candidate);
  }
  return kept;
}

/** Box in pixels of the input to pixels of the image, clipped to it. */
export function scaleBox([x1, y1, x2, y2], fit, height, width) {
  const clip = (value, most) => Math.min(Math.max(value, 0), most);
  return [
    clip((x1 - fit.left) / fit.ratioX, width), clip((y1 - fit.top) / fit.ratioY, height),
    clip((x2 - fit.left) / fit.ratioX, width), clip((y2 - fit.top) / fit.ratioY, height),
  ];
}
