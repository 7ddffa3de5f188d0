// Drawing of results on a canvas whose pixels are those of the image.

/** Black or white, whichever reads better on a color "#rrggbb". */
function textColor(color) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000000" : "#ffffff";
}

/** The semantic mask of an answer as a colored bitmap, or null. */
export async function readSemantic(semantic) {
  if (!semantic) return null;
  const bytes = Uint8Array.from(atob(semantic.png), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const colors = new Map(semantic.classes.map(({ id, color }) => [id, parseInt(color.slice(1), 16)]));
  for (let i = 0; i < image.data.length; i += 4) {
    const color = colors.get(image.data[i]);
    if (color === undefined) image.data[i + 3] = 0;
    else image.data.set([color >> 16, (color >> 8) & 255, color & 255, 110], i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Draw the image, the semantic mask, then masks and boxes of the detections. */
export function draw(canvas, bitmap, { detections, semantic, colors, selected }) {
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  if (semantic) context.drawImage(semantic, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(canvas.width, canvas.height) / 640;
  for (const one of [...detections].reverse()) drawDetection(context, one, colors[one.class] ?? "#2f6fd0", unit, one === selected);
}

function drawDetection(context, { box, name, score, mask }, color, unit, isSelected) {
  context.fillStyle = context.strokeStyle = color;
  context.globalAlpha = 0.4;
  for (const polygon of mask?.polygons ?? []) {
    context.beginPath();
    for (let i = 0; i < polygon.length; i += 2) context.lineTo(polygon[i], polygon[i + 1]);
    context.fill();
  }
  context.globalAlpha = 1;
  context.lineWidth = (isSelected ? 4 : 2) * unit;
  context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  const text = `${name} ${score.toFixed(2)}`, size = 12 * unit;
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const width = context.measureText(text).width + 6 * unit, height = size * 1.3;
  const left = Math.max(0, Math.min(box[0], context.canvas.width - width)), top = Math.max(0, box[1] - height);
  context.fillRect(left, top, width, height);
  context.fillStyle = textColor(color);
  context.fillText(text, left + 3 * unit, top + size * 0.15);
}

/** The smallest detection whose box holds the point, or null. */
export function findAt(detections, x, y) {
  const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  const hits = detections.filter(({ box }) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3]);
  return hits.sort((a, b) => area(a) - area(b))[0] ?? null;
}
