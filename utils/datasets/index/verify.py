"""Checks of one image and its label rows: what is wrong is said, bad rows go, images stay wherever they can."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.core.types import Polygons
from utils.imaging.read import ImageError, check_image

MIN_SIDE = 10  # pixels, of an image
SLACK = 0.05  # of the frame: so far a value may leave 0-1 and is cut off; further out it is no normalized value
ROUNDING = 1e-5  # of the frame: so far a box may reach out of it as text with few digits does


@dataclass
class LabelRows:
    """Label rows of one image, before or after the checks.

    Attributes:
        rows: (n, 5) float32 class, x, y, w, h over width and height.
        polygons: rings of each row, normalized, an empty list for a row that is a box; None if all are boxes.
        places: where each row stands, for messages: `labels/a.txt:3`.
        messages: what was found wrong.
        dropped, clipped: how many rows were left out, or cut at the frame.
    """

    rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    polygons: Polygons | None = None
    places: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    dropped: int = 0
    clipped: int = 0

    def drop(self, place: str, reason: str) -> None:
        """Note a row that is left out."""
        self.dropped += 1
        self.messages.append(f"{place}: {reason}; row left out")


@dataclass
class Verified:
    """One image after the checks: `size_hw` None if it cannot be used, `labelled` if it has a label file or entry."""

    size_hw: tuple[int, int] | None
    labels: LabelRows
    labelled: bool


def verify_image(image: str, label: str | LabelRows | None, num_classes: int) -> Verified:
    """Check an image and its labels, given as a label file or as rows from elsewhere. Raises nothing for bad input."""
    labels = LabelRows()
    try:
        size_hw, warning = check_image(image)
    except ImageError as error:
        labels.messages.append(f"{error}; image left out")
        return Verified(None, labels, label is not None)
    if min(size_hw) < MIN_SIDE:
        height, width = size_hw
        labels.messages.append(f"{image}: {width}x{height} pixels, sides must be {MIN_SIDE} or more; image left out")
        return Verified(None, labels, label is not None)
    labelled = True
    if isinstance(label, LabelRows):
        labels = check_rows(label, num_classes)
    elif label is not None and Path(label).is_file():
        labels = read_label_file(label, num_classes)
    else:
        labelled = False
    if warning:
        labels.messages.insert(0, f"{image}: {warning}")
    return Verified(size_hw, labels, labelled)


def read_label_file(path: str, num_classes: int) -> LabelRows:
    """The good rows of a label file: `class x y w h`, or `class x1 y1 x2 y2 x3 y3 ...`, whitespace between values."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        labels = LabelRows()
        labels.drop(path, f"not a readable text file ({error})")
        return labels
    return check_rows(parse_label_text(text, path), num_classes)


def parse_label_text(text: str, path: str) -> LabelRows:
    """Numbers from the text of a label file; rows with another number of values than a box or polygon has are dropped.

    Five values are a box and seven or more, oddly many, a polygon: each row counts for itself.
    """
    lines = [(f"{path}:{n}", line.split()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if all(len(tokens) == 5 for _, tokens in lines):
        try:
            with np.errstate(over="ignore"):  # beyond float32 is infinite, which the checks name
                rows = np.array([tokens for _, tokens in lines], np.float32).reshape(-1, 5)
            return LabelRows(rows, places=[place for place, _ in lines])
        except ValueError:
            pass  # one of them is no number: find it below
    labels, kept, polygons = LabelRows(), [], []
    for place, tokens in lines:
        try:
            values = np.array(tokens, np.float32)
        except ValueError:
            labels.drop(place, f"{' '.join(tokens)[:60]!r} is not all numbers")
            continue
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            labels.drop(place, f"{len(values)} values, a box has 5 and a polygon 7, 9, 11 ...")
            continue
        rings = [] if len(values) == 5 else [values[1:].reshape(-1, 2)]
        kept.append(values if not rings else polygon_row(values[0], rings))
        polygons.append(rings)
        labels.places.append(place)
    labels.rows = np.array(kept, np.float32).reshape(-1, 5)
    labels.polygons = polygons if any(polygons) else None
    return labels


def polygon_row(label: float, rings: Sequence[np.ndarray]) -> np.ndarray:
    """(5,) class and the box around the rings, as far as those lie in the frame or stray beyond all bounds."""
    points = np.concatenate(list(rings))
    near = (points >= -SLACK) & (points <= 1 + SLACK)
    points = np.clip(points, 0, 1) if near.all() else points
    low, high = points.min(0), points.max(0)
    return np.concatenate([[label], (low + high) / 2, high - low]).astype(np.float32)


def check_rows(labels: LabelRows, num_classes: int) -> LabelRows:
    """The rows that can be used; the others are named in `messages`. Boxes reaching out of the frame are cut."""
    reasons = _reasons_against(labels.rows, num_classes)
    kept: list[int] = []
    seen: dict[bytes, set[tuple[bytes, ...]]] = defaultdict(set)  # outlines of each class and box, () for a box alone
    for k, (place, reason) in enumerate(zip(labels.places, reasons, strict=True)):
        earlier = seen[labels.rows[k].tobytes()]
        outline = tuple(ring.tobytes() for ring in labels.polygons[k]) if labels.polygons is not None else ()
        if reason is None and earlier and (not outline or earlier & {outline, ()}):
            reason = "repeats an earlier row"
        if reason is None:
            earlier.add(outline)
            kept.append(k)
        else:
            labels.drop(place, reason)
    labels.places = [labels.places[k] for k in kept]
    labels.rows = labels.rows[kept]
    if labels.polygons is not None:
        labels.polygons = [[np.clip(ring, 0, 1) for ring in labels.polygons[k]] for k in kept]
    _cut_at_frame_(labels)
    return labels


def _reasons_against(rows: np.ndarray, num_classes: int) -> list[str | None]:
    """For each row (n, 5) why it cannot be used, or None."""
    with np.errstate(invalid="ignore"):
        label, box = rows[:, 0], rows[:, 1:]
        low, high = box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2
        finite = np.isfinite(rows).all(axis=1)
        whole = label == np.floor(label)
        known = (label >= 0) & (label < num_classes)
        sized = (box[:, 2:] > 0).all(1)
        near = ((box >= -SLACK) & (box <= 1 + SLACK)).all(1)
        inside = (np.minimum(high, 1) > np.maximum(low, 0)).all(1)
    reasons: list[str | None] = [None] * len(rows)
    for k in np.flatnonzero(~np.stack([finite, whole, known, sized, near, inside]).all(0)):
        values = " ".join(f"{v:g}" for v in box[k])
        if not finite[k]:
            reasons[k] = "a value is not finite"
        elif not whole[k]:
            reasons[k] = f"class {label[k]:g} is not a whole number"
        elif not known[k]:
            reasons[k] = f"class {label[k]:g}, but the data YAML names {num_classes} classes (0-{num_classes - 1})"
        elif not (box[k, 2:] > 0).all():
            reasons[k] = f"box {values} has no or a negative size"
        elif not (high[k] > low[k]).all():
            reasons[k] = f"box {values} is too small to be told from a point"
        else:
            reasons[k] = f"box {values} lies outside the frame (0-1); are these pixels?"
    return reasons


def _cut_at_frame_(labels: LabelRows) -> None:
    """Cut boxes at the frame where they reach out by more than rounding; the others keep their very values."""
    box = labels.rows[:, 1:]
    low, high = box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2
    out = np.maximum(-low, high - 1).max(1, initial=0)
    chosen = out > ROUNDING
    if not chosen.any():
        return
    low, high = np.maximum(low[chosen], 0), np.minimum(high[chosen], 1)
    labels.rows[chosen, 1:] = np.concatenate([(low + high) / 2, high - low], 1)
    labels.clipped += int(chosen.sum())
    for k in np.flatnonzero(chosen):
        labels.messages.append(f"{labels.places[k]}: box reaches {out[k]:.2%} of the frame beyond it; cut")
