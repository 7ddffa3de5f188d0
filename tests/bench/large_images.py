"""Large test images with known objects: crops of a data set's objects, pasted at native size."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.core.logging import LOGGER  # noqa: E402
from utils.datasets.index.data_yaml import load_spec  # noqa: E402
from utils.datasets.index.labels import load_index  # noqa: E402
from utils.imaging.read import imwrite, read_image  # noqa: E402

MARGIN = 6  # pixels around a crop that fade into the field
MIN_SIDE = 12  # of an object, pixels


def load_crops(data: Path, split: str = "test") -> tuple[list[tuple[int, np.ndarray]], np.ndarray, dict[int, str]]:
    """Class and crop (h, w, 3) of every whole object of a split, the median color of its images, and the names."""
    spec = load_spec(data)
    index = load_index(spec, split)
    crops, colors = [], []
    for i, path in enumerate(index.paths):
        frame = read_image(path)
        height, width = frame.shape[:2]
        colors.append(np.percentile(frame.reshape(-1, 3), 80, axis=0))
        classes, boxes, _ = index.labels(i)
        for label, (x, y, w, h) in zip(classes.tolist(), boxes.tolist(), strict=True):
            x1, y1, x2, y2 = (
                round(v) for v in ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            )
            inside = x1 >= MARGIN and y1 >= MARGIN and x2 <= width - MARGIN and y2 <= height - MARGIN
            if inside and min(x2 - x1, y2 - y1) >= MIN_SIDE:
                crops.append((int(label), frame[y1 - MARGIN : y2 + MARGIN, x1 - MARGIN : x2 + MARGIN]))
    return crops, np.median(colors, axis=0), dict(spec.names)


def compose(
    crops: list[tuple[int, np.ndarray]],
    color: np.ndarray,
    size_hw: tuple[int, int],
    count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A field (H, W, 3) with `count` crops that do not overlap, and labels (count, 5) class, x, y, w, h in 0-1."""
    height, width = size_hw
    field = np.clip(rng.normal(color, 3.0, (height // 4, width // 4, 3)), 0, 255).astype(np.uint8)
    field = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
    taken, labels = np.zeros((height // 8 + 1, width // 8 + 1), bool), []
    while len(labels) < count:
        label, crop = crops[int(rng.integers(len(crops)))]
        h, w = crop.shape[:2]
        x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
        cells = taken[y // 8 : (y + h) // 8 + 1, x // 8 : (x + w) // 8 + 1]
        if cells.any():
            continue
        cells[:] = True
        alpha = _fade(h, w)[..., None]
        region = field[y : y + h, x : x + w]
        region[:] = (alpha * crop + (1 - alpha) * region).astype(np.uint8)
        labels.append(
            (label, (x + w / 2) / width, (y + h / 2) / height, (w - 2 * MARGIN) / width, (h - 2 * MARGIN) / height)
        )
    return field, np.array(labels)


def _fade(height: int, width: int) -> np.ndarray:
    """Opacity (h, w): 1 inside, falling to 0 over the margin."""
    rows, columns = (np.minimum(np.arange(n) + 1, n - np.arange(n)) / MARGIN for n in (height, width))
    return np.minimum(np.minimum.outer(rows, columns), 1.0)


def main() -> None:
    """Write a set: images/test, labels/test and data.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data set YAML whose test split gives the objects")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--objects", type=int, default=300, help="per image")
    parser.add_argument("--side", type=int, default=3000, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    crops, color, names = load_crops(args.data)
    for folder in ("images/test", "labels/test"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    for number in range(args.images):
        rng = np.random.default_rng([args.seed, number])
        field, labels = compose(crops, color, (args.side, args.side), args.objects, rng)
        imwrite(args.out / f"images/test/{number:03}.jpg", field, quality=95)
        lines = (f"{int(c)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in labels)
        (args.out / f"labels/test/{number:03}.txt").write_text("".join(lines))
    content = {"path": ".", "train": "images/test", "val": "images/test", "test": "images/test", "names": names}
    (args.out / "data.yaml").write_text(yaml.safe_dump(content))
    LOGGER.info(f"{args.images} images with {args.objects} objects each in {args.out}")


if __name__ == "__main__":
    main()
