"""What one image gave: boxes in its own pixels, as words, text lines, crops and a drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.datasets.sources.frames import SourceFrame
from utils.imaging.draw import draw_boxes, draw_masks, draw_text, palette, text_height, to_bgr
from utils.imaging.semantic_classes import SemanticClasses
from utils.ops.boxes import clip_boxes_, xyxy_to_xywhn
from utils.ops.masks import ObjectMasks
from utils.ops.semantic_masks import blended

CROP_SCALE, CROP_MARGIN = (
    1.02,
    10,
)  # a crop shows a little of the surroundings; margin in pixels, both sides together
LIKELIEST = 5  # classes of an image that are told
TOLD_SHARE = 0.01  # of an image's pixels, from which a class is told
PLATE = (80, 80, 80)  # BGR, under the names of classes


@dataclass(frozen=True)
class DrawStyle:
    """How results are drawn.

    Attributes:
        line_thickness: pixels; None suits it to the size of the image.
        hide_labels, hide_conf: leave out all text, or the scores.
    """

    line_thickness: int | None = None
    hide_labels: bool = False
    hide_conf: bool = False


@dataclass
class Result:
    """The objects found in one image.

    Attributes:
        source: the image and where it comes from.
        boxes: (n, 6) float32: x1, y1, x2, y2 in pixels of the image, score, class; best first.
        names: class names by number.
        input_hw: size of the network input it was looked at in.
        ms: milliseconds of preparing, network and post-processing.
        masks: of the boxes, in pixels of the image; None where the model gives none.
        semantic_mask: (H, W) uint8 class of each pixel of the image; None where the model gives none.
        semantic: the classes of `semantic_mask`.
    """

    source: SourceFrame
    boxes: np.ndarray
    names: Mapping[int, str]
    input_hw: tuple[int, int] = (0, 0)
    ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    masks: ObjectMasks | None = None
    semantic_mask: np.ndarray | None = None
    semantic: SemanticClasses | None = None
    _drawings: dict[DrawStyle, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def classes(self) -> list[int]:
        """Class number of each box."""
        return [int(c) for c in self.boxes[:, 5]]

    @property
    def labels(self) -> list[str]:
        """Class name of each box; the number where the model has no name for it."""
        return [self.names.get(c, str(c)) for c in self.classes]

    @property
    def stem(self) -> str:
        """File name without suffix; frames of a video carry their number."""
        stem = Path(self.source.path).stem
        return stem if self.source.number is None else f"{stem}_{self.source.number}"

    def summary(self) -> str:
        """Object counts by class, in class order, and shares of a semantic mask: `4 persons, road 45%`."""
        counts = sorted(Counter(self.classes).items())
        words = [f"{n} {plural(label) if n > 1 else label}" for c, n in counts for label in [self.names.get(c, str(c))]]
        if self.semantic_mask is None:
            return ", ".join(words) or "(no detections)"
        return ", ".join([*words, *(f"{name} {share:.0%}" for name, share in self.shares()[:LIKELIEST])])

    def shares(self) -> list[tuple[str, float]]:
        """Name and share of the pixels of each class that has at least 1 % of them, the largest first."""
        if self.semantic_mask is None or self.semantic is None:
            return []
        counts = np.bincount(self.semantic_mask.ravel(), minlength=len(self.semantic))[: len(self.semantic)]
        order = np.argsort(-counts, kind="stable")
        shares = [(self.semantic.names[int(c)], float(counts[c] / self.semantic_mask.size)) for c in order]
        return [(name, share) for name, share in shares if share >= TOLD_SHARE]

    def log_line(self) -> str:
        """Source, input size, what was found and the time of the network."""
        height, width = self.input_hw
        return f"{self.source.heading}: {height}x{width} {self.summary()}, {self.ms[1]:.1f}ms"

    def text_lines(self, *, with_score: bool = False, corners: bool = False) -> list[str]:
        """`class x y w h [score]` for each box, over width and height of the image; `corners`: x1 y1 x2 y2.

        With masks the outline of each object's largest part, `class x1 y1 x2 y2 x3 y3 ... [score]`.
        """
        rows = zip(self.classes, self._places(corners), self.boxes[:, 4].tolist(), strict=True)
        return [
            " ".join([str(number), *(f"{v:g}" for v in ((*place, score) if with_score else place))])
            for number, place, score in rows
        ]

    def _places(self, corners: bool) -> list[list[float]]:
        """Where each object is, over width and height of the image."""
        size_hw = self.source.frame.shape[:2]
        if self.masks is not None:
            return [(ring / np.array(size_hw[::-1])).ravel().tolist() for ring in self.masks.outlines()]
        boxes = self.boxes[:, :4].astype(np.float64)
        return (
            boxes / np.array([*size_hw[::-1], *size_hw[::-1]]) if corners else xyxy_to_xywhn(boxes, size_hw)
        ).tolist()

    def crops(self) -> Iterator[tuple[str, np.ndarray]]:
        """Class name and BGR crop (a view) of each box, with a margin; with masks BGRA, clear around the object."""
        canvas = to_bgr(self.source.frame)
        centers, sides = (self.boxes[:, :2] + self.boxes[:, 2:4]) / 2, self.boxes[:, 2:4] - self.boxes[:, :2]
        half = (sides * CROP_SCALE + CROP_MARGIN) / 2
        grown = clip_boxes_(np.concatenate((centers - half, centers + half), axis=1), canvas.shape[:2])
        for number, (label, (x1, y1, x2, y2)) in enumerate(zip(self.labels, grown.astype(int).tolist(), strict=True)):
            cut = canvas[y1:y2, x1:x2]
            yield label, cut if self.masks is None else np.dstack((cut, self.masks.opacity(number, (x1, y1, x2, y2))))

    def drawing(self, style: DrawStyle) -> np.ndarray:
        """A BGR copy of the image with semantic mask, masks and boxes, the best on top; drawn once for all writers."""
        if style not in self._drawings:
            scores = self.boxes[:, 4].tolist()
            texts = [self._caption(label, score, style) for label, score in zip(self.labels, scores, strict=True)]
            colors = [palette(c) for c in self.classes]
            boxes = self.boxes[::-1, :4]
            canvas = to_bgr(self.source.frame)
            if self.semantic_mask is not None and self.semantic is not None:
                canvas = blended(canvas, self.semantic_mask, self.semantic)
            if self.masks is not None:
                draw_masks(canvas, self.masks, colors)
            self._drawings[style] = draw_boxes(
                canvas, boxes, texts[::-1], colors[::-1], line_thickness=style.line_thickness
            )
        return self._drawings[style]

    def _caption(self, label: str, score: float, style: DrawStyle) -> str:
        if style.hide_labels:
            return ""
        return label if style.hide_conf else f"{label} {score:.2f}"


def plural(word: str) -> str:
    """`persons`, `buses`: an English plural, good enough for a log."""
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def likeliest_as_box(probs: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    """(1, 6) float32 x1, y1, x2, y2, score, class: the most likely of (num_classes,) probabilities, as a box around a
    image of this size in pixels."""
    best = int(probs.argmax())
    return np.array([[0, 0, size_hw[1], size_hw[0], probs[best], best]], np.float32)


@dataclass
class ClassResult(Result):
    """The classes of one image, as one box around all of it.

    Attributes:
        probs: (num_classes,) probabilities.
    """

    probs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def of(
        cls,
        source: SourceFrame,
        probs: np.ndarray,
        names: Mapping[int, str],
        input_hw: tuple[int, int],
        ms: tuple[float, float, float],
    ) -> ClassResult:
        """The result of an image with these probabilities."""
        return cls(source, likeliest_as_box(probs, source.frame.shape[:2]), names, input_hw, ms, probs=probs)

    @property
    def best(self) -> list[tuple[str, float]]:
        """Name and probability of the five most likely classes, the most likely first."""
        order = np.argsort(-self.probs, kind="stable")[:LIKELIEST]
        return [(self.names.get(int(c), str(c)), float(self.probs[c])) for c in order]

    def summary(self) -> str:
        """The most likely classes with their probabilities: `ring 0.93, disc 0.04`."""
        return ", ".join(f"{name} {share:.2f}" for name, share in self.best)

    def text_lines(self, *, with_score: bool = True, corners: bool = False) -> list[str]:
        """`probability name` of the most likely classes."""
        return [f"{share:g} {name}" for name, share in self.best]

    def drawing(self, style: DrawStyle) -> np.ndarray:
        """A BGR copy of the image with the most likely classes written at its top left."""
        if style not in self._drawings:
            canvas = to_bgr(self.source.frame)
            height, top = text_height((canvas.shape[0], canvas.shape[1])), 0
            for name, share in () if style.hide_labels else self.best:
                text = name if style.hide_conf else f"{share:.2f} {name}"
                top = draw_text(canvas, text, (0, top), height, PLATE)[3]
            self._drawings[style] = canvas
        return self._drawings[style]
