"""Verification of an image and its labels."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from utils.core.errors import InputError
from utils.core.files import read_file
from utils.core.limits import check_limit
from utils.core.types import Polygons
from utils.imaging.console import capture_stderr
from utils.imaging.read import ImageError, check_image

MAX_BYTES, MAX_LINES = 2**24, 100_000  # of a label file
MAX_MESSAGES = 100  # per image
MORE_PROBLEMS = "more problems with its labels"
MIN_SIDE = 10  # pixels, of an image
SLACK = 0.05  # values outside 0-1 by at most this are clipped; others are not normalized coordinates
ROUNDING = 1e-5  # boxes outside the image by at most this are kept as they are: text has few digits


@dataclass(slots=True)
class LabelRows:
    """Label rows of one image, before or after the checks.

    Attributes:
        rows: (n, 5) float32 class, x, y, w, h over width and height.
        polygons: normalized rings of each row, an empty list for a row that is a box; None if all are boxes.
        locations: location of each row, for messages: `labels/a.txt:3`.
        messages: the first problems.
        unreported: number of further problems.
        dropped, clipped: number of rows that were dropped, or clipped to the image.
    """

    rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    polygons: Polygons | None = None
    locations: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    unreported: int = 0
    dropped: int = 0
    clipped: int = 0

    def drop(self, location: str, reason: str) -> None:
        """Count a dropped row and report it."""
        self.dropped += 1
        self.report(f"{location}: {reason}; row dropped")

    def report(self, message: str) -> None:
        """Add a message, or count it if there are many."""
        if len(self.messages) < MAX_MESSAGES:
            self.messages.append(message)
        else:
            self.unreported += 1


@dataclass(slots=True)
class VerifiedImage:
    """A verified image: `size_hw` is None if it is unusable, `labelled` if it has a label file or entry."""

    size_hw: tuple[int, int] | None
    labels: LabelRows
    labelled: bool = False


def verify_image(image: str, label: str | LabelRows | None, num_classes: int) -> VerifiedImage:
    """Verify an image and its labels, a label file or rows from elsewhere. Does not raise for invalid input."""
    try:
        size_hw, warning = check_image(image)
        if min(size_hw) < MIN_SIDE:
            raise ImageError(image, f"{size_hw[1]}x{size_hw[0]} pixels, sides must be at least {MIN_SIDE}")
    except ImageError as error:
        return VerifiedImage(None, LabelRows(messages=[f"{error}; image skipped"]))
    verified = VerifiedImage(size_hw, LabelRows())
    if isinstance(label, LabelRows):
        verified = VerifiedImage(size_hw, check_rows(label, num_classes), labelled=True)
    elif label is not None and os.path.exists(label):  # noqa: PTH110 (several times faster than a Path)
        verified = VerifiedImage(size_hw, read_label_file(label, num_classes), labelled=True)
    labels = verified.labels
    labels.locations.clear()  # only for messages
    if labels.unreported:
        labels.messages.append(f"{image}: {labels.unreported:,} {MORE_PROBLEMS}")
    if warning:
        labels.messages.insert(0, f"{image}: {warning}")
    return verified


def name_damaged_images(images: Sequence[str], lines: Sequence[str]) -> list[str]:
    """Messages that name the images whose decoders wrote `lines`, found by decoding the images one by one.

    Lines that come from elsewhere are written to standard error.
    """
    messages, unexplained = [], Counter(lines)
    for image in images:
        if not unexplained:
            break
        try:
            with capture_stderr() as own_lines:
                is_reported = check_image(image)[1] is not None
        except ImageError:
            is_reported = True
        if own_lines and not is_reported:
            messages.append(f"{image}: {own_lines[0]}; image used")
        unexplained -= Counter(own_lines)
    for line in unexplained.elements():
        print(line, file=sys.stderr)
    return messages


def read_label_file(path: str, num_classes: int) -> LabelRows:
    """Valid rows of a label file: `class x y w h`, or `class x1 y1 x2 y2 x3 y3 ...`, separated by whitespace."""
    try:
        text = read_file(path, max_bytes=MAX_BYTES).decode("utf-8-sig")
        labels = parse_label_text(text, path)
    except UnicodeDecodeError as error:
        labels = LabelRows()
        labels.drop(path, f"not a readable text file ({error})")
    except InputError as error:
        labels = LabelRows(messages=[f"{error}; labels dropped"], dropped=1)
    return check_rows(labels, num_classes)


@np.errstate(over="ignore")  # 1e40 becomes infinite, which `check_rows` reports
def parse_label_text(text: str, path: str) -> LabelRows:
    """Rows of a label file, not yet checked.

    A row of five values is a box, one of an odd number from seven on a polygon; others are dropped.

    Raises:
        InputError: over the limit of lines.
    """
    lines = text.splitlines()
    check_limit(path, "lines", len(lines), MAX_LINES)
    has_odd_digits = "_" in text or not text.isascii()
    labels, valid_rows, polygons = LabelRows(), [], []
    for number, line in enumerate(lines, 1):
        tokens = line.split()
        if not tokens:
            continue
        location = f"{path}:{number}"
        try:
            values = _parse_plain_numbers(tokens) if has_odd_digits else np.array(tokens, np.float32)
        except ValueError:
            labels.drop(location, f"{' '.join(tokens[:60])[:60]!r} has a value that is not a number")
            continue
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            labels.drop(location, f"{len(values)} values, but a box has 5 and a polygon 7, 9, 11 ...")
            continue
        rings = [] if len(values) == 5 else [values[1:].reshape(-1, 2)]
        valid_rows.append(make_polygon_row(values[0], rings[0]) if rings else values)
        polygons.append(rings)
        labels.locations.append(location)
    labels.rows = np.array(valid_rows, np.float32).reshape(-1, 5)
    labels.polygons = polygons if any(polygons) else None
    return labels


def _parse_plain_numbers(tokens: Sequence[str]) -> np.ndarray:
    """The values of a row; ValueError for 1_5 and digits of other scripts, which Python takes for numbers."""
    if any("_" in token or not token.isascii() for token in tokens):
        raise ValueError
    return np.array(tokens, np.float32)


def make_polygon_row(label: float, points: np.ndarray) -> np.ndarray:
    """(5,) class and box around a ring, clipped to the image unless a point is outside by more than the slack."""
    near = (points >= -SLACK) & (points <= 1 + SLACK)
    points = np.clip(points, 0, 1) if near.all() else points
    low, high = points.min(0), points.max(0)
    return np.concatenate([[label], (low + high) / 2, high - low]).astype(np.float32)


def check_rows(labels: LabelRows, num_classes: int) -> LabelRows:
    """Drop invalid and duplicate rows and clip boxes to the image; problems are added to `messages`."""
    errors = _find_row_errors(labels.rows, num_classes)
    keep: list[int] = []
    outlines: dict[bytes, set[tuple[bytes, ...]]] = defaultdict(set)  # by class and box; () for a row without polygon
    for k, (location, error) in enumerate(zip(labels.locations, errors, strict=True)):
        earlier = outlines[labels.rows[k].tobytes()]
        outline = tuple(ring.tobytes() for ring in labels.polygons[k]) if labels.polygons is not None else ()
        if error is None and earlier and (not outline or earlier & {outline, ()}):
            error = "duplicate row"
        if error is None:
            earlier.add(outline)
            keep.append(k)
        else:
            labels.drop(location, error)
    labels.locations = [labels.locations[k] for k in keep]
    labels.rows = labels.rows[keep]
    if labels.polygons is not None:
        labels.polygons = [[np.clip(ring, 0, 1) for ring in labels.polygons[k]] for k in keep]
    _clip_boxes_(labels)
    return labels


def _find_row_errors(rows: np.ndarray, num_classes: int) -> list[str | None]:
    """What is wrong with each of n rows (n, 5), or None."""
    with np.errstate(invalid="ignore"):
        label, box = rows[:, 0], rows[:, 1:]
        low, high = box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2
        finite = np.isfinite(rows).all(axis=1)
        integer = label == np.floor(label)
        known = (label >= 0) & (label < num_classes)
        sized = (box[:, 2:] > 0).all(1)
        near = ((box >= -SLACK) & (box <= 1 + SLACK)).all(1)
        inside = (np.minimum(high, 1) > np.maximum(low, 0)).all(1)
    errors: list[str | None] = [None] * len(rows)
    for k in np.flatnonzero(~np.stack([finite, integer, known, sized, near, inside]).all(0)):
        values = " ".join(f"{v:g}" for v in box[k])
        if not finite[k]:
            errors[k] = "a value is not finite"
        elif not integer[k]:
            errors[k] = f"class {label[k]:g} is not an integer"
        elif not known[k]:
            errors[k] = f"class {label[k]:g}, but the data YAML names {num_classes} classes (0-{num_classes - 1})"
        elif not (box[k, 2:] > 0).all():
            errors[k] = f"box {values} has a size that is not positive"
        elif not (high[k] > low[k]).all():
            errors[k] = f"box {values} is too small for float32"
        else:
            errors[k] = f"box {values} is outside the image (0-1); are these pixels?"
    return errors


def _clip_boxes_(labels: LabelRows) -> None:
    """Clip boxes that are outside the image by more than rounding; the others are unchanged."""
    box = labels.rows[:, 1:]
    low, high = box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2
    excess = np.maximum(-low, high - 1).max(1, initial=0)
    outside = excess > ROUNDING
    if not outside.any():
        return
    low, high = np.maximum(low[outside], 0), np.minimum(high[outside], 1)
    labels.rows[outside, 1:] = np.concatenate([(low + high) / 2, high - low], 1)
    labels.clipped += int(outside.sum())
    for k in np.flatnonzero(outside):
        labels.report(f"{labels.locations[k]}: box extends {excess[k]:.2%} beyond the image; clipped")
