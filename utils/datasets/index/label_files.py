"""Label files written: rows in pixels made into normalized ones, checked, and put down as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from utils.core.logging import LOGGER
from utils.datasets.index.verify import LabelRows, check_rows

SHOWN = 5  # messages of one set


def names_of(raw: Mapping[str, Any]) -> dict[int, str]:
    """Class names by number, from a data YAML as read."""
    names = raw["names"]
    return {int(n): str(name) for n, name in (names.items() if isinstance(names, dict) else enumerate(names))}


def source_of(raw: Mapping[str, Any], official: str) -> str:
    """Address of a set's archives, without a slash at its end: `source` of the YAML, else the official one."""
    return str(raw.get("source", official)).rstrip("/")


def pixel_rows(classes: ArrayLike, boxes_xyxy: ArrayLike, size_hw: tuple[int, int], places: Sequence[str]) -> LabelRows:
    """Label rows, not yet checked, of boxes in pixels.

    Args:
        classes: (n,).
        boxes_xyxy: (n, 4) corners; a box without an area is one that the checks will name.
        size_hw: of the image, not 0.
        places: n, where each row stands, for messages.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 2, 2) / size_hw[::-1]
    low, high = boxes[:, 0], boxes[:, 1]
    column = np.asarray(classes, np.float64).reshape(-1, 1)
    rows = np.concatenate([column, (low + high) / 2, high - low], axis=1).astype(np.float32)
    return LabelRows(rows, places=list(places))


def label_text(rows: np.ndarray, rings: Sequence[np.ndarray | None] | None = None) -> str:
    """Lines of a label file: `class x y w h`, or `class x1 y1 x2 y2 ...` where a row has a ring.

    Args:
        rows: (n, 5) class and box, normalized.
        rings: n normalized rings (K, 2), None for a row that is a box.
    """
    outlines = rings if rings is not None else [None] * len(rows)
    values = (row[1:] if ring is None else np.ravel(ring) for row, ring in zip(rows, outlines, strict=True))
    lines = (f"{int(row[0])} " + " ".join(f"{v:.6f}" for v in value) for row, value in zip(rows, values, strict=True))
    return "".join(f"{line}\n" for line in lines)


class LabelWriter:
    """Writes checked label files of one part of a set and counts what was left out."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.images = self.objects = self.dropped = 0
        self.messages: list[str] = []

    def write(self, file: Path, labels: LabelRows) -> None:
        """Check rows and write those that can be used as boxes; the file is there also for an image without any."""
        checked = check_rows(labels, self.num_classes)
        self.images += 1
        self.objects += len(checked.rows)
        self.dropped += checked.dropped
        self.messages += checked.messages[: SHOWN - len(self.messages)]
        file.write_text(label_text(checked.rows), encoding="utf-8")

    def write_all(self, folder: Path, labels: Iterable[tuple[str, LabelRows]]) -> None:
        """Write `<folder>/<stem>.txt` for each stem."""
        folder.mkdir(parents=True, exist_ok=True)
        for stem, rows in labels:
            self.write(folder / f"{stem}.txt", rows)

    def report(self, name: str, passed_over: str = "") -> None:
        """One line about this part of the set, after the first things that were wrong."""
        for message in self.messages:
            LOGGER.warning(f"WARNING {message}")
        more = f"; {passed_over}" if passed_over else ""
        LOGGER.info(
            f"{name}: labels of {self.images} images, {self.objects} objects, {self.dropped} rows left out{more}"
        )


def write_list(file: Path, lines: Iterable[str]) -> None:
    """A list of images, a line each."""
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
