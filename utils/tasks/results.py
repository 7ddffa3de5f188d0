"""Result of one image: its text forms, crops and annotated image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from utils.datasets.sources.frames import SourceFrame
from utils.imaging.draw import Color, class_color_bgr, draw_boxes, draw_masks, draw_text, text_height, to_bgr
from utils.imaging.semantic_classes import SemanticClasses
from utils.ops.boxes import clip_boxes_, xyxy_to_xywhn
from utils.ops.masks import ObjectMasks
from utils.ops.semantic_masks import blend_semantic_mask

CROP_SCALE, CROP_MARGIN = 1.02, 10  # crops are larger than boxes; margin in pixels, of both sides together
TOP_K = 5  # classes in a summary
MIN_CLASS_SHARE = 0.01  # of the pixels of an image, for a class to be in a summary
CAPTION_BACKGROUND = (80, 80, 80)  # BGR
COUNTER_COLOR = (0, 200, 255)


@dataclass(frozen=True)
class DrawStyle:
    """How results are drawn.

    Attributes:
        line_thickness: pixels; None chooses it by image size.
        hide_labels, hide_conf: omit all text, or the scores.
        max_side: as for `draw_boxes`.
    """

    line_thickness: int | None = None
    hide_labels: bool = False
    hide_conf: bool = False
    max_side: int | None = None


@dataclass(frozen=True)
class TrackOverlay:
    """What tracking adds to a result.

    Attributes:
        ids: (n,) of the boxes.
        trails: n paths (k, 2) of their centers, newest last; [] for none.
        counters: title, points (k, 2), and numbers in and out of each line and zone.
    """

    ids: np.ndarray
    trails: Sequence[np.ndarray] = ()
    counters: Sequence[tuple[str, np.ndarray, tuple[int, int]]] = ()


@dataclass
class Result:
    """Predictions for one image.

    Attributes:
        source: the image and its origin.
        boxes: (n, 6) float32: x1, y1, x2, y2 in pixels of the image, score, class; best first.
        names: class names by number.
        input_hw: size of the network input.
        ms: milliseconds of pre-processing, inference and post-processing.
        masks: of the boxes, in pixels of the image; None without instance masks.
        semantic_mask: (H, W) uint8 class of each pixel of the image; None without semantic segmentation.
        semantic: the classes of `semantic_mask`.
        tracks: ids of the boxes; None without tracking.
    """

    source: SourceFrame
    boxes: np.ndarray
    names: Mapping[int, str]
    input_hw: tuple[int, int] = (0, 0)
    ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    masks: ObjectMasks | None = None
    semantic_mask: np.ndarray | None = None
    semantic: SemanticClasses | None = None
    tracks: TrackOverlay | None = None
    _annotated: dict[DrawStyle, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def classes(self) -> list[int]:
        """Class number of each box."""
        return [int(c) for c in self.boxes[:, 5]]

    @property
    def labels(self) -> list[str]:
        """Class name of each box; the class number if it has no name."""
        return [self.names.get(c, str(c)) for c in self.classes]

    @property
    def stem(self) -> str:
        """File name without suffix; frames of a video have their number appended."""
        stem = Path(self.source.path).stem
        return stem if self.source.number is None else f"{stem}_{self.source.number}"

    def summarize(self) -> str:
        """Object counts by class, in class order, and shares of a semantic mask: `4 persons, road 45%`."""
        counts = sorted(Counter(self.classes).items())
        named_counts = [(n, self.names.get(c, str(c))) for c, n in counts]
        words = [f"{n} {pluralize(name) if n > 1 else name}" for n, name in named_counts]
        if self.semantic_mask is None:
            return ", ".join(words) or "(no detections)"
        return ", ".join([*words, *(f"{name} {share:.0%}" for name, share in self.compute_class_shares()[:TOP_K])])

    def compute_class_shares(self) -> list[tuple[str, float]]:
        """Name and share of the pixels of each class that has at least 1 %, largest first."""
        if self.semantic_mask is None or self.semantic is None:
            return []
        counts = np.bincount(self.semantic_mask.ravel(), minlength=len(self.semantic))[: len(self.semantic)]
        order = np.argsort(-counts, kind="stable")
        shares = [(self.semantic.names[int(c)], float(counts[c] / self.semantic_mask.size)) for c in order]
        return [(name, share) for name, share in shares if share >= MIN_CLASS_SHARE]

    def format_log(self) -> str:
        """Source, input size, summary and inference time."""
        height, width = self.input_hw
        return f"{self.source.heading}: {height}x{width} {self.summarize()}, {self.ms[1]:.1f}ms"

    def to_text_lines(self, *, with_score: bool = False, corners: bool = False) -> list[str]:
        """Label file lines, least certain first: `class x y w h [score]` per box, in 0-1; with `corners` x1 y1 x2 y2.

        With masks, the outline of the largest part of each object: `class x1 y1 x2 y2 x3 y3 ... [score]`. With
        tracking, the id comes last.
        """
        rows = zip(self.classes, self._normalized_coordinates(corners), self.boxes[:, 4].tolist(), strict=True)
        lines = [
            " ".join([str(class_id), *(f"{v:g}" for v in ((*coordinates, score) if with_score else coordinates))])
            for class_id, coordinates, score in rows
        ]
        if self.tracks is not None:
            lines = [f"{line} {number}" for line, number in zip(lines, self.tracks.ids.tolist(), strict=True)]
        return lines[::-1]

    def _normalized_coordinates(self, corners: bool) -> list[list[float]]:
        """Box or outline of each object, over width and height of the image."""
        size_hw = self.source.size_hw
        if self.masks is not None:
            return [(ring / np.array(size_hw[::-1])).ravel().tolist() for ring in self.masks.outlines()]
        boxes = self.boxes[:, :4].astype(np.float32)  # whose sixth digits are those of YOLOv5
        scale = np.array([*size_hw[::-1], *size_hw[::-1]], np.float32)
        normalized = boxes / scale if corners else xyxy_to_xywhn(boxes, size_hw)
        return normalized.tolist()

    def extract_crops(self) -> Iterator[tuple[str, np.ndarray]]:
        """Class name and BGR crop of each box with a margin, least certain first.

        With masks the crop is BGRA with a transparent background.
        """
        centers, sizes = (self.boxes[:, :2] + self.boxes[:, 2:4]) / 2, self.boxes[:, 2:4] - self.boxes[:, :2]
        half = (sizes * CROP_SCALE + CROP_MARGIN) / 2
        crop_boxes = clip_boxes_(np.concatenate((centers - half, centers + half), axis=1), self.source.size_hw)
        corners = crop_boxes.astype(int).tolist()
        for number, label in reversed(list(enumerate(self.labels))):
            x1, y1, x2, y2 = corners[number]
            crop = to_bgr(self.source.crop(x1, y1, x2, y2))
            yield label, crop if self.masks is None else np.dstack((crop, self.masks.opacity(number, (x1, y1, x2, y2))))

    def draw(self, style: DrawStyle) -> np.ndarray:
        """A BGR copy of the image with semantic mask, masks and boxes, best on top; cached for all writers."""
        if style not in self._annotated:
            scores = self.boxes[:, 4].tolist()
            texts = [self._caption(label, score, style) for label, score in zip(self.labels, scores, strict=True)]
            colors = [class_color_bgr(c) for c in self.classes]
            if self.tracks is not None:
                ids = self.tracks.ids.tolist()
                texts = [f"#{number} {text}".strip() for number, text in zip(ids, texts, strict=True)]
                colors = [class_color_bgr(number) for number in ids]
            canvas = to_bgr(self.source.frame)
            boxes, masks = self._fit_to_frame()
            if self.semantic_mask is not None and self.semantic is not None:
                canvas = blend_semantic_mask(canvas, self.semantic_mask, self.semantic)
            if masks is not None:
                draw_masks(canvas, masks, colors)
            if self.tracks is not None:
                self._draw_tracks(canvas, self.tracks, colors)
            self._annotated[style] = draw_boxes(
                canvas,
                boxes[::-1],
                texts[::-1],
                colors[::-1],
                line_thickness=style.line_thickness,
                max_side=style.max_side,
            )
        return self._annotated[style]

    def _draw_tracks(self, canvas: np.ndarray, tracks: TrackOverlay, colors: Sequence[Color]) -> None:
        """Trails, and lines and zones with their counts, in place."""
        thickness = max(1, round(sum(canvas.shape[:2]) / 600))
        for trail, color in zip(tracks.trails, colors, strict=False):
            cv2.polylines(canvas, [np.rint(trail).astype(np.int32)], False, color, thickness, cv2.LINE_AA)
        for title, points, (ins, outs) in tracks.counters:
            corners = np.rint(points).astype(np.int32)
            cv2.polylines(canvas, [corners], title == "zone", COUNTER_COLOR, thickness, cv2.LINE_AA)
            height = text_height((canvas.shape[0], canvas.shape[1]))
            room = [max(canvas.shape[1] - 12 * height, 0), max(canvas.shape[0] - 2 * height, 0)]
            x, y = corners[0].clip(0, room).tolist()
            draw_text(canvas, f"in {ins}  out {outs}", (x, y), height, COUNTER_COLOR)

    def _fit_to_frame(self) -> tuple[np.ndarray, ObjectMasks | None]:
        """Boxes (n, 4) and masks in pixels of the frame, which may be an overview of the image."""
        frame_hw, (height, width) = self.source.frame.shape[:2], self.source.size_hw
        if frame_hw == (height, width):
            return self.boxes[:, :4], self.masks
        scale = np.array([frame_hw[1] / width, frame_hw[0] / height] * 2, np.float32)
        return self.boxes[:, :4] * scale, None if self.masks is None else self.masks.resize(frame_hw)

    def _caption(self, label: str, score: float, style: DrawStyle) -> str:
        if style.hide_labels:
            return ""
        return label if style.hide_conf else f"{label} {score:.2f}"


def pluralize(word: str) -> str:
    """A simple English plural: `persons`, `buses`."""
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def make_top1_box(probs: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    """The most likely of (num_classes,) probabilities as a box around the image.

    Returns:
        (1, 6) float32 x1, y1, x2, y2 in pixels, score, class.
    """
    best = int(probs.argmax())
    return np.array([[0, 0, size_hw[1], size_hw[0], probs[best], best]], np.float32)


@dataclass
class ClassResult(Result):
    """Class probabilities of one image; `boxes` has one box around the image, of the most likely class.

    Attributes:
        probs: (num_classes,) probabilities.
    """

    probs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def from_probs(
        cls,
        source: SourceFrame,
        probs: np.ndarray,
        names: Mapping[int, str],
        input_hw: tuple[int, int],
        ms: tuple[float, float, float],
    ) -> ClassResult:
        """Result of an image with (num_classes,) probabilities."""
        return cls(source, make_top1_box(probs, source.frame.shape[:2]), names, input_hw, ms, probs=probs)

    @property
    def top5(self) -> list[tuple[str, float]]:
        """Name and probability of the five most likely classes, most likely first."""
        order = np.argsort(-self.probs, kind="stable")[:TOP_K]
        return [(self.names.get(int(c), str(c)), float(self.probs[c])) for c in order]

    def summarize(self) -> str:
        """Top-5 classes with their probabilities: `ring 0.93, disc 0.04`."""
        return ", ".join(f"{name} {prob:.2f}" for name, prob in self.top5)

    def to_text_lines(self, *, with_score: bool = True, corners: bool = False) -> list[str]:
        """`probability name` of the top-5 classes, most likely first."""
        return [f"{prob:.2f} {name}" for name, prob in self.top5]

    def draw(self, style: DrawStyle) -> np.ndarray:
        """A BGR copy of the image with the top-5 classes at its top left."""
        if style not in self._annotated:
            canvas = to_bgr(self.source.frame)
            height, top = text_height((canvas.shape[0], canvas.shape[1])), 0
            for name, prob in () if style.hide_labels else self.top5:
                text = name if style.hide_conf else f"{prob:.2f} {name}"
                top = draw_text(canvas, text, (0, top), height, CAPTION_BACKGROUND)[3]
            self._annotated[style] = canvas
        return self._annotated[style]
