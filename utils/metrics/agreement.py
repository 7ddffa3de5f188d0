"""Agreement of two sets of predictions for the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.ops.boxes import box_iou_matrix


@dataclass(frozen=True)
class Tolerance:
    """Largest differences between two implementations of one network.

    Attributes:
        relative: mean absolute difference of an output over its mean absolute value.
        agreeing: smallest share of the predictions that must agree, by the limits that follow.
        pixels: offset of a box corner, pixels of the network input.
        score: difference of a detection's score or of a probability.
        iou: smallest IoU of two boxes and of two instance masks.
        same_pixels: smallest share of an image's pixels that have the same semantic class.
    """

    relative: float
    agreeing: float
    pixels: float
    score: float
    iou: float = 0.9
    same_pixels: float = 0.99


@dataclass(frozen=True)
class Comparison:
    """Settings of a comparison.

    Attributes:
        size_hw: network input, pixels.
        nms: keyword arguments of `non_max_suppression`.
    """

    tolerance: Tolerance
    size_hw: tuple[int, int]
    nms: Mapping[str, Any]


@dataclass(frozen=True)
class Agreement:
    """Number of predictions that agree, and of all."""

    agreeing: int = 0
    total: int = 0

    @classmethod
    def count(cls, agree: Tensor) -> Agreement:
        """Agreement of predictions from a bool for each."""
        return cls(int(agree.sum()), len(agree))

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.agreeing + other.agreeing, self.total + other.total)


def compare_detections(
    reference: Tensor,
    detections: Tensor,
    tolerance: Tolerance,
    *,
    conf_thres: float,
    masks: tuple[Tensor, Tensor] | None = None,
) -> Agreement:
    """Pair mutually nearest detections of the same class in one image and count the pairs within the tolerance.

    The other detections disagree, except those whose score exceeds the threshold by no more than the tolerance: a
    rounding error decides whether they are detected.

    Args:
        reference, detections: (n, 6+) and (m, 6+) x1, y1, x2, y2 in pixels, score, class, after NMS.
        conf_thres: confidence threshold of both.
        masks: (n, h, w) and (m, h, w) bool instance masks, in which one pixel may differ whatever the IoU.
    """
    lowest = conf_thres + tolerance.score
    missing, extra = (int((rows[:, 4] > lowest).sum()) for rows in (reference, detections))
    if not (len(reference) and len(detections)):
        return Agreement(0, max(missing, extra))
    ious = box_iou_matrix(reference[:, :4], detections[:, :4])  # (n, m)
    ious = ious.masked_fill(reference[:, None, 5] != detections[None, :, 5], -1.0)
    nearest = ious.argmax(dim=1)  # (n,)
    gaps = (reference[:, :5] - detections[nearest, :5]).abs()
    agree = (ious.argmax(dim=0)[nearest] == torch.arange(len(reference))) & (ious.amax(dim=1) >= tolerance.iou)
    agree &= (gaps[:, :4].amax(dim=1) <= tolerance.pixels) & (gaps[:, 4] <= tolerance.score)
    if masks is not None:
        first, second = (side.flatten(1) for side in (masks[0], masks[1][nearest]))
        different, union = (first ^ second).sum(dim=1), (first | second).sum(dim=1)
        agree &= different <= ((1 - tolerance.iou) * union).clamp(min=1)
    missing -= int((reference[agree, 4] > lowest).sum())
    extra -= int((detections[nearest[agree], 4] > lowest).sum())
    return Agreement(int(agree.sum()), int(agree.sum()) + max(missing, extra))
