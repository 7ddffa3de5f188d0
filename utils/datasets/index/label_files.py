"""Writing of YOLO label files from boxes in pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.logging import LOGGER
from utils.datasets.index.listing import is_plain_text
from utils.datasets.index.verify import LabelRows, check_rows

MAX_MESSAGES = 5  # per split


def get_class_names(raw: Mapping[str, Any]) -> dict[int, str]:
    """Class names by number from a parsed data YAML."""
    names = raw["names"]
    return {int(n): str(name) for n, name in (names.items() if isinstance(names, dict) else enumerate(names))}


def get_source_url(raw: Mapping[str, Any], official: str) -> str:
    """URL of the archives without a trailing slash: `source` in the YAML, else the official one."""
    return str(raw.get("source", official)).rstrip("/")


def make_label_rows(
    classes: ArrayLike, boxes_xyxy: ArrayLike, size_hw: tuple[int, int], locations: Sequence[str]
) -> LabelRows:
    """Label rows of boxes in pixels, normalized, not yet checked.

    Args:
        classes: (n,).
        boxes_xyxy: (n, 4) corners.
        size_hw: of the image, not 0.
        locations: n locations of the rows, for messages.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 2, 2) / size_hw[::-1]
    low, high = boxes[:, 0], boxes[:, 1]
    column = np.asarray(classes, np.float64).reshape(-1, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # not finite then, which `check_rows` reports
        rows = np.concatenate([column, (low + high) / 2, high - low], axis=1).astype(np.float32)
    return LabelRows(rows, locations=list(locations))


def format_label_rows(rows: np.ndarray, rings: Sequence[np.ndarray | None] | None = None) -> str:
    """Text of a label file: `class x y w h`, or `class x1 y1 x2 y2 ...` for a row with a ring.

    Args:
        rows: (n, 5) class and normalized box.
        rings: n normalized rings (K, 2), None for a row that is a box.
    """
    outlines = rings if rings is not None else [None] * len(rows)
    values = (row[1:] if ring is None else np.ravel(ring) for row, ring in zip(rows, outlines, strict=True))
    lines = (f"{int(row[0])} " + " ".join(f"{v:.6f}" for v in value) for row, value in zip(rows, values, strict=True))
    return "".join(f"{line}\n" for line in lines)


class LabelWriter:
    """Writes the label files of a split and counts dropped rows."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.images = self.objects = self.dropped = 0
        self.messages: list[str] = []

    def write(self, file: Path, labels: LabelRows) -> None:
        """Check rows and write the valid ones as boxes; an image without objects gets an empty file."""
        checked = check_rows(labels, self.num_classes)
        self.images += 1
        self.objects += len(checked.rows)
        self.dropped += checked.dropped
        self.messages += checked.messages[: MAX_MESSAGES - len(self.messages)]
        file.write_text(format_label_rows(checked.rows), encoding="utf-8")

    def write_all(self, folder: Path, labels: Iterable[tuple[str, LabelRows]]) -> None:
        """Write `<folder>/<stem>.txt` for each stem."""
        folder.mkdir(parents=True, exist_ok=True)
        for stem, rows in labels:
            self.write(folder / f"{stem}.txt", rows)

    def report(self, name: str, skipped: str = "") -> None:
        """Log the first problems and a one-line summary."""
        for message in self.messages:
            LOGGER.warning(f"WARNING {message}")
        suffix = f"; {skipped}" if skipped else ""
        LOGGER.info(
            f"{name}: labels of {self.images} images, {self.objects} objects, {self.dropped} rows dropped{suffix}"
        )


def write_image_list(file: Path, lines: Iterable[str]) -> None:
    """Replace a list file, one image per line; InputError as `check_list_lines`."""
    names = list(lines)
    check_list_lines(file, names)
    with atomic_write(file) as work:
        work.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def check_list_lines(file: Path, lines: Iterable[str]) -> None:
    """InputError for the name of an image that a line of a list file cannot hold."""
    for line in lines:
        if not is_plain_text(line):
            raise InputError(f"{file}: cannot list {line!r}: not UTF-8 or with control characters; rename the image")
