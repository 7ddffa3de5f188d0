"""How far two runtimes are apart: their detections paired, their raw rows, their class scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from utils.ops.boxes import box_iou_matrix, xywh_to_xyxy
from utils.ops.nms import non_max_suppression
from utils.ops.prototypes import CodedMasks

RAW_ROWS = 100  # of highest score, compared one by one where nothing is detected

LEAST_OVERLAP = 0.1  # IoU of boxes that can mean the same object


@dataclass(frozen=True)
class Tolerance:
    """What an export may be off by.

    Attributes:
        pixels: of a corner. score: of a detection. relative: of a whole output, mean error over mean size.
        iou: a pair of boxes whose overlap is this close to the threshold may be suppressed or not.
        tie: of two scores that are this close either may be the better one.
        mask: least IoU of two masks of one object.
        agreement: share of the pixels that must have the same class, at least.
    """

    pixels: float
    score: float
    relative: float
    iou: float
    tie: float
    mask: float = 0.99
    agreement: float = 0.999


@dataclass(frozen=True)
class Thresholds:
    """Settings of the suppression that both sides went through."""

    conf: float = 0.25
    iou: float = 0.45
    max_det: int = 300
    agnostic: bool = False


@dataclass
class Figures:
    """Largest differences seen.

    Attributes:
        compared: detections that were paired.
        pixels, score: of their corners and scores. relative: of whole outputs, None where only detections
            are there to compare.
        mask: lowest IoU of two masks of one object, None where there are none.
        agreement: share of the pixels whose class is the same, None where there are no semantic masks.
        problems: what exceeds the tolerance, a line each.
    """

    compared: int = 0
    pixels: float = 0.0
    score: float = 0.0
    relative: float | None = None
    agreement: float | None = None
    problems: list[str] = field(default_factory=list)
    mask: float | None = None

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.compared + other.compared,
            max(self.pixels, other.pixels),
            max(self.score, other.score),
            max((v for v in (self.relative, other.relative) if v is not None), default=None),
            min((v for v in (self.agreement, other.agreement) if v is not None), default=None),
            [*self.problems, *other.problems],
            min((v for v in (self.mask, other.mask) if v is not None), default=None),
        )

    def text(self, *, boxes: bool = True) -> str:
        """One phrase for the log; of a classifier without `boxes`."""
        if not boxes and self.relative is not None:
            return f"at most {self.score:.2g} of a probability, {self.relative:.2g} of the mean logit"
        if self.relative is None and not self.compared:
            return "no detection found by both" if self.problems else "nothing, and nothing is detected on the images"
        what = f"{self.compared} detections" if self.compared else "whole outputs, as nothing is detected"
        relative = "" if self.relative is None else f", {self.relative:.2g} of the mean output"
        masks = "" if self.mask is None else f", masks agree to an IoU of {self.mask:.4f}"
        found = f"at most {self.pixels:.3g} px and {self.score:.2g} of score{relative} ({what}){masks}"
        if self.agreement is None:
            return found
        classes = f"the class of {1 - self.agreement:.3%} of the pixels"
        alone = not (self.compared or self.pixels or self.score)
        return f"{classes}{relative}" if alone else f"{found}, and {classes}"


def compare_detections(
    reference: Tensor, found: Tensor | Sequence[Tensor], limits: Thresholds, tolerance: Tolerance, *, nm: int = 0
) -> Figures:
    """Pair the detections after suppression by class and place.

    Suppression is a matter of thresholds and of order, so a box close to a threshold, or as good as one it overlaps,
    may come out on one side only. A detection that no small change could cost has to be found; what is found has to be
    a candidate that no such detection suppresses.

    Args:
        reference: (B, N, 5 + num_classes + nm) decoded rows of PyTorch.
        found: such rows of the export, or its detections (n, 6), a tensor an image.
    """
    if isinstance(found, Tensor):
        found = _detections(found, limits, limits.iou, nm)
    numbered = _numbered(reference, nm)
    shifted = [min(max(limits.iou + shift, 0.0), 1.0) for shift in (0.0, -tolerance.iou, tolerance.iou)]
    variants = [_detections(numbered, limits, iou, nm + 1) for iou in shifted]
    every = replace(limits, conf=max(limits.conf - 2 * tolerance.score, 0.0), max_det=reference.shape[1])
    candidates = _detections(numbered, every, 1.0, nm + 1)  # no box overlaps another by more than one
    figures = Figures()
    for image, rows in enumerate(found):
        second = _second_classes(reference[image], tolerance, nm)
        exact, *others = (variant[image] for variant in variants)
        sure = _sure(exact, others, candidates[image], second, limits, tolerance)
        possible = _possible(candidates[image], sure, second, limits, tolerance)
        clear = sure[sure[:, 4] > _clear_score(exact, limits, tolerance)]
        missing = _paired(clear, rows, tolerance, "PyTorch's detection", "is missing")
        figures = figures + replace(missing, compared=0)
        figures = figures + _paired(rows, possible, tolerance, "a detection", "is none of PyTorch's")
    return figures


def _detections(decoded: Tensor, limits: Thresholds, iou: float, nm: int) -> list[Tensor]:
    return non_max_suppression(decoded, limits.conf, iou, agnostic=limits.agnostic, max_det=limits.max_det, nm=nm)


def _numbered(decoded: Tensor, nm: int) -> Tensor:
    """The rows with their numbers as one more column (exact in float32 up to 16 million)."""
    numbers = torch.arange(decoded.shape[1], dtype=decoded.dtype).expand(decoded.shape[:2])
    return torch.cat((decoded, numbers[..., None]), dim=-1)


def _sure(
    exact: Tensor,
    others: Sequence[Tensor],
    candidates: Tensor,
    second: Tensor,
    limits: Thresholds,
    tolerance: Tolerance,
) -> Tensor:
    """The rows of `exact` that are in all the others, of one clear class, and better than all that they overlap."""
    is_sure = second[exact[:, -1].long()] < 0
    for other in others:
        is_sure &= torch.isin(exact[:, -1], other[:, -1])
    rivals = _overlaps(exact, candidates, limits, limits.iou - tolerance.iou)
    rivals &= candidates[None, :, 4] > exact[:, None, 4] - tolerance.tie
    rivals &= candidates[None, :, -1] != exact[:, None, -1]
    return exact[is_sure & ~rivals.any(dim=1)]


def _possible(candidates: Tensor, sure: Tensor, second: Tensor, limits: Thresholds, tolerance: Tolerance) -> Tensor:
    """The candidates that no sure detection suppresses; those of two nearly equal classes with the second one too."""
    beaten = _overlaps(candidates, sure, limits, limits.iou + tolerance.iou)
    beaten &= sure[None, :, 4] > candidates[:, None, 4] + tolerance.tie
    rows = candidates[~beaten.any(dim=1)]
    others = second[rows[:, -1].long()]
    flipped = rows[others >= 0].clone()
    flipped[:, 5] = others[others >= 0].to(rows.dtype)
    return torch.cat((rows, flipped))


def _overlaps(first: Tensor, second: Tensor, limits: Thresholds, iou: float) -> Tensor:
    """(first, second) whether two rows overlap by more than `iou` and can suppress each other."""
    close = box_iou_matrix(first[:, :4], second[:, :4]) > iou
    return close if limits.agnostic else close & (first[:, None, 5] == second[None, :, 5])


def _second_classes(decoded: Tensor, tolerance: Tolerance, nm: int) -> Tensor:
    """(N,) the second class of each row where it scores nearly as much as the best, else -1."""
    scores = decoded[:, 5 : decoded.shape[1] - nm] * decoded[:, 4:5]
    if scores.shape[1] < 2:
        return torch.full((len(decoded),), -1)
    best = scores.topk(2, dim=1)
    is_close = best.values[:, 0] - best.values[:, 1] < tolerance.tie
    return torch.where(is_close, best.indices[:, 1], -1)


def _clear_score(rows: Tensor, limits: Thresholds, tolerance: Tolerance) -> float:
    """Score from which a detection cannot be cut off on one side only, by the threshold or by `max_det`."""
    full = len(rows) >= limits.max_det
    lowest = max(limits.conf, float(rows[:, 4].min())) if full else limits.conf
    return lowest + 2 * tolerance.score


def _paired(wanted: Tensor, others: Tensor, tolerance: Tolerance, subject: str, predicate: str) -> Figures:
    """Pair each wanted detection with one of the others of its class, nearest first; what stays alone is a problem."""
    gaps = (wanted[:, None, :4] - others[None, :, :4]).abs().amax(dim=-1)  # (wanted, others)
    fits = (wanted[:, None, 5] == others[None, :, 5]) & gaps.isfinite()
    fits &= box_iou_matrix(wanted[:, :4], others[:, :4]) > LEAST_OVERLAP
    pairs = fits.nonzero()
    pairs = pairs[gaps[fits].argsort()]
    figures = Figures()
    alone = set(range(len(wanted)))
    taken: set[int] = set()
    for first, second in pairs.tolist():
        if not alone:
            break
        if first in alone and second not in taken:
            alone.discard(first)
            taken.add(second)
            figures = figures + _pair(wanted[first], others[second], float(gaps[first, second]), tolerance)
    for row in sorted(alone):
        where = ", ".join(f"{v:.0f}" for v in wanted[row, :4].tolist())
        line = f"{subject} of class {int(wanted[row, 5])}, score {float(wanted[row, 4]):.2f}, at {where} {predicate}"
        figures.problems.append(line)
    return figures


def _pair(first: Tensor, second: Tensor, pixels: float, tolerance: Tolerance) -> Figures:
    score = float((first[4] - second[4]).abs())
    figures = Figures(1, pixels, score)
    if not (pixels <= tolerance.pixels and score <= tolerance.score):
        figures.problems.append(
            f"a detection of class {int(first[5])} is off by {pixels:.3g} px and {score:.2g} of score, "
            f"allowed are {tolerance.pixels:g} px and {tolerance.score:g}"
        )
    return figures


def compare_raw(reference: Tensor, found: Tensor, tolerance: Tolerance, *, nm: int = 0, rows: bool = True) -> Figures:
    """Compare decoded rows (B, N, 5 + num_classes + nm), in their order.

    Sizes and scores of all rows by their relative error, since a network that scores low everywhere would pass the
    absolute limits whatever it computes.

    Args:
        rows: the rows of highest score one by one too, where there is no detection to compare.
    """
    end = reference.shape[2] - nm
    relative = max(relative_error(reference[..., a:b], found[..., a:b]) for a, b in ((2, 4), (4, end)))
    figures = Figures(relative=relative)
    if rows:
        scores = reference[..., 4] * reference[..., 5:end].amax(dim=-1)
        best = scores.topk(min(RAW_ROWS, scores.shape[1]), dim=1).indices[..., None]
        expected, given = (
            part.gather(1, best.expand(-1, -1, part.shape[2]))[..., :end].flatten(0, 1) for part in (reference, found)
        )
        figures.pixels = float((xywh_to_xyxy(expected) - xywh_to_xyxy(given)).abs().max())
        figures.score = float((expected[:, 4:] - given[:, 4:]).abs().max())
    within = figures.pixels <= tolerance.pixels and figures.score <= tolerance.score and relative <= tolerance.relative
    if not within:
        figures.problems.append(
            f"raw rows are off by {figures.pixels:.3g} px, {figures.score:.2g} of score and {relative:.2g} of their "
            f"mean size, allowed are {tolerance.pixels:g} px, {tolerance.score:g} and {tolerance.relative:g}"
        )
    return figures


def compare_masks(
    reference: Sequence[Tensor], found: Sequence[Tensor], size_hw: tuple[int, int], tolerance: Tolerance
) -> Figures:
    """Compare prototypes by their relative error, and the masks of PyTorch's detections, or best rows without any.

    A mask is decoded from the same row on both sides, and cut at PyTorch's box: boxes are compared by themselves. One
    pixel may differ whatever the IoU, since a threshold decides on it and masks may be as small as it.

    Args:
        reference, found: decoded rows (B, N, 5 + num_classes + nm) and prototypes (B, nm, h, w).
        size_hw: of the network input, whose pixels are compared.
    """
    nm = reference[1].shape[1]
    if len(found) < 2 or found[1].shape != reference[1].shape:
        shape = tuple(found[1].shape) if len(found) > 1 else "nothing"
        return Figures(problems=[f"prototypes: {shape} instead of {tuple(reference[1].shape)}"])
    error = relative_error(reference[1], found[1])
    figures = Figures(relative=error)
    if not error <= tolerance.relative:
        figures.problems.append(f"prototypes are off by {error:.2%}")
    numbered = _numbered(reference[0], nm)
    detected = _detections(numbered, Thresholds(), Thresholds.iou, nm + 1)
    for image, rows in enumerate(detected):
        if not len(rows):
            best = Thresholds(conf=0.0, max_det=RAW_ROWS)
            rows = _detections(numbered[image : image + 1], best, 1.0, nm + 1)[0]
        codes = found[0][image, rows[:, -1].long(), -nm:]
        wanted = CodedMasks(reference[1][image], rows[:, 6:-1], rows[:, :4], size_hw).in_input()
        given = CodedMasks(found[1][image], codes, rows[:, :4], size_hw).in_input()
        for row, first, second in zip(rows, wanted.bitmaps, given.bitmaps, strict=True):
            figures = figures + _mask_pair(row, first, second, tolerance)
    return figures


def _mask_pair(row: Tensor, first: np.ndarray, second: np.ndarray, tolerance: Tolerance) -> Figures:
    union, differing = int((first | second).sum()), int((first ^ second).sum())
    if differing <= 1:
        return Figures(mask=1.0 if not differing else None)
    iou = 1 - differing / union
    figures = Figures(mask=iou)
    if not iou >= tolerance.mask:
        figures.problems.append(
            f"the mask of an object of class {int(row[5])} has an IoU of {iou:.3f} with PyTorch's, "
            f"allowed is {tolerance.mask:g}"
        )
    return figures


def compare_scores(reference: Tensor, found: Tensor, tolerance: Tolerance) -> Figures:
    """Compare the logits (B, num_classes) of a classifier by the probabilities they give."""
    score = float((reference.softmax(1) - found.softmax(1)).abs().max())
    relative = relative_error(reference, found)
    figures = Figures(score=score, relative=relative)
    if not (score <= tolerance.score and relative <= tolerance.relative):
        figures.problems.append(
            f"probabilities are off by {score:.2g}, logits by {relative:.2g} of their mean size, "
            f"allowed are {tolerance.score:g} and {tolerance.relative:g}"
        )
    return figures


def compare_semantic_masks(reference: Tensor, found: Tensor, tolerance: Tolerance) -> Figures:
    """Compare the logits (B, n, H, W) of semantic masks by the strongest class of each pixel and by their size."""
    agreement = float((reference.argmax(1) == found.argmax(1)).double().mean())
    relative = relative_error(reference, found)
    figures = Figures(relative=relative, agreement=agreement)
    if not (agreement >= tolerance.agreement and relative <= tolerance.relative):
        figures.problems.append(
            f"{1 - agreement:.3%} of the pixels have another class and logits are off by {relative:.2g} of their mean "
            f"size, allowed are {1 - tolerance.agreement:.3%} and {tolerance.relative:g}"
        )
    return figures


def relative_error(reference: Tensor, found: Tensor) -> float:
    """Mean error over mean size."""
    return float((found - reference).abs().mean() / reference.abs().mean().clamp(min=1e-12))
