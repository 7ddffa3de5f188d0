// Files of what is shown.

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Lines "class x y w h", over width and height of the image. */
export function toLabels(detections, { width, height }) {
  const toLine = ({ class: number, box: [x1, y1, x2, y2] }) => {
    const values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height];
    return `${number} ${values.map((value) => value.toFixed(6)).join(" ")}\n`;
  };
  return detections.map(toLine).join("");
}

export function saveJson(result, stem) {
  save(new Blob([JSON.stringify(result, null, 2)], { type: "application/json" }), `${stem}.json`);
}

export function saveLabels(detections, image, stem) {
  save(new Blob([toLabels(detections, image)], { type: "text/plain" }), `${stem}.txt`);
}

export function saveImage(canvas, stem) {
  canvas.toBlob((blob) => save(blob, `${stem}_detections.png`), "image/png");
}
