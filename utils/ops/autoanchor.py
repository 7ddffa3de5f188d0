"""Anchor sizes that suit a data set: how well they cover its boxes, and the search for better ones.

`python -m utils.anchors --data coco128.yaml --img 640` prints and draws anchors for a data set.

A box and an anchor fit by a ratio in (0, 1]: the smaller of min(w, a_w) / max(w, a_w) and the same of the heights. In
logarithms that is a distance, exp(-max(|log w - log a_w|, |log h - log a_h|)), which is how it is worked out here: the
search needs no division, and one exponential per box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.logging import LOGGER

if TYPE_CHECKING:
    from torch import Tensor

GOOD_RECALL = 0.98  # anchors that reach it are kept
MIN_SIDE = 2.0  # pixels; boxes with both sides below play no part, anchors do not get smaller
SMALL_SIDE = 3.0  # pixels; such boxes are worth a warning
KMEANS_ROUNDS = 30
MAX_BOXES = 50_000  # the search judges by a random sample of this size of larger sets


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors cover boxes.

    Attributes:
        recall: best possible recall, the share of boxes with at least one anchor within the threshold.
        per_box: anchors within the threshold per box, on average.
        mean_best: mean over the boxes of the ratio of their best anchor.
    """

    recall: float
    per_box: float
    mean_best: float


def anchor_fit(anchors_wh: np.ndarray, boxes_wh: np.ndarray, threshold: float = 4.0) -> AnchorFit:
    """Judge anchors (K, 2) by boxes (N, 2), both width and height in pixels; N is at least 1.

    Args:
        threshold: an anchor suits a box if no side differs by this factor (`anchor_t`).
    """
    gaps = _log_gaps(_logs(anchors_wh), _logs(boxes_wh))  # (K, N)
    best, limit = gaps.min(axis=0), np.log(threshold)
    return AnchorFit(
        float((best < limit).mean()), float((gaps < limit).sum(axis=0).mean()), float(np.exp(-best).mean())
    )


def best_possible_recall(anchors_wh: np.ndarray, boxes_wh: np.ndarray, threshold: float = 4.0) -> float:
    """Share of boxes with an anchor that suits them, in [0, 1]; arguments as of `anchor_fit`."""
    return anchor_fit(anchors_wh, boxes_wh, threshold).recall


def search_anchors(
    boxes_wh: np.ndarray,
    count: int,
    *,
    rng: np.random.Generator,
    threshold: float = 4.0,
    generations: int = 1000,
) -> np.ndarray:
    """Anchors for boxes: k-means on the sizes, then a genetic search for the fit that the loss rewards.

    Args:
        boxes_wh: (N, 2) width and height in pixels of the network input.
        count: number of anchors K.
        rng: source of all randomness; equal generators give equal anchors.
        threshold: see `anchor_fit`.
        generations: steps of the genetic search; 0 leaves the k-means centers.

    Returns:
        (K, 2) float64, smallest area first.

    Raises:
        ValueError: no box has a side of at least 2 pixels.
    """
    boxes = np.asarray(boxes_wh, dtype=np.float64)
    if small := int((boxes < SMALL_SIDE).any(axis=1).sum()):
        LOGGER.warning(f"anchors: {small} of {len(boxes)} boxes are under {SMALL_SIDE:g} pixels wide or high")
    boxes = boxes[(boxes >= MIN_SIDE).any(axis=1)]
    if not len(boxes):
        raise ValueError(f"anchors: none of {len(boxes_wh)} boxes has a side of {MIN_SIDE:g} pixels or more")
    if len(boxes) > MAX_BOXES:
        boxes = rng.choice(boxes, MAX_BOXES, replace=False)
    anchors = _evolve(_kmeans(boxes, count, rng), boxes, threshold, generations, rng)
    return anchors[anchors.prod(axis=1).argsort(kind="stable")]


def _kmeans(boxes_wh: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) centers of Lloyd's k-means on sizes scaled to unit deviation, started by k-means++.

    With fewer distinct boxes than centers the centers are the boxes and random sizes between them.
    """
    distinct = np.unique(boxes_wh, axis=0)
    if len(distinct) <= count:
        missing = (count - len(distinct), 2)
        return np.vstack((distinct, rng.uniform(distinct.min(axis=0), distinct.max(axis=0), missing)))
    deviation = boxes_wh.std(axis=0)
    points = boxes_wh / np.where(deviation > 0, deviation, 1)
    centers = _spread_start(points, count, rng)
    for _ in range(KMEANS_ROUNDS):
        nearest = _square_distances(points, centers).argmin(axis=1)
        sizes = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, weights=column, minlength=count) for column in points.T], axis=1)
        moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centers)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers * np.where(deviation > 0, deviation, 1)


def _spread_start(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): each next center is drawn by squared distance to those before."""
    centers = points[rng.integers(len(points))][None]
    distances = _square_distances(points, centers)[:, 0]
    while len(centers) < count:
        chosen = points[rng.choice(len(points), p=distances / distances.sum())][None]
        centers = np.vstack((centers, chosen))
        distances = np.minimum(distances, _square_distances(points, chosen)[:, 0])
    return centers


def _square_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return np.square(points[:, None] - centers[None]).sum(axis=2)  # (N, K)


def _evolve(
    anchors_wh: np.ndarray, boxes_wh: np.ndarray, threshold: float, generations: int, rng: np.random.Generator
) -> np.ndarray:
    """Hill climb: each generation scales the anchors by random factors and stays if the fitness has risen.

    Fitness is the mean over the boxes of the best anchor's ratio, counted as 0 where that anchor does not suit.
    """
    logs, limit = _logs(boxes_wh), np.float32(np.log(threshold))
    scratch = np.empty((2, len(anchors_wh), len(boxes_wh)), np.float32)

    def fitness(anchors: np.ndarray) -> float:
        best = _log_gaps(_logs(anchors), logs, scratch).min(axis=0)
        return float(np.exp(-best[best < limit]).sum()) / len(boxes_wh)

    best = fitness(anchors_wh)
    for _ in range(generations):
        child = np.maximum(anchors_wh * _mutation(anchors_wh.shape, rng), MIN_SIDE)
        if (score := fitness(child)) > best:
            anchors_wh, best = child, score
    return anchors_wh


def _mutation(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Factors in [0.3, 3] around 1; nine in ten differ from 1, at least one does."""
    factors = np.ones(shape)
    while (factors == 1).all():
        changed = rng.random(shape) < 0.9
        factors = np.clip(1 + changed * rng.random() * 0.1 * rng.standard_normal(shape), 0.3, 3.0)
    return factors


def _logs(sizes_wh: np.ndarray) -> np.ndarray:
    """(N, 2) sizes -> (2, N) float32 logarithms; empty sides count as a thousandth of a pixel."""
    return np.log(np.maximum(np.asarray(sizes_wh, np.float64), 1e-3)).T.astype(np.float32, order="C")


def _log_gaps(anchors: np.ndarray, boxes: np.ndarray, scratch: np.ndarray | None = None) -> np.ndarray:
    """(2, K), (2, N) logarithms -> (K, N) larger of the two absolute differences, in `scratch` if given."""
    gaps = np.subtract(anchors[:, :, None], boxes[:, None], out=scratch)  # (2, K, N)
    np.abs(gaps, out=gaps)
    return np.maximum(gaps[0], gaps[1], out=gaps[0])


def box_sizes(sizes_hw: np.ndarray, offsets: np.ndarray, boxes_xywhn: np.ndarray, imgsz: int) -> np.ndarray:
    """(M, 2) width and height in pixels of all boxes of an image index, images fitted into `imgsz`.

    Args:
        sizes_hw, offsets, boxes_xywhn: the arrays of an `ImageIndex`.
        imgsz: longest side of each image.
    """
    longest = sizes_hw.max(axis=1, keepdims=True)
    fitted_wh = sizes_hw[:, ::-1] / longest * imgsz  # (N, 2)
    return np.repeat(fitted_wh, np.diff(offsets), axis=0) * boxes_xywhn[:, 2:]


def check_anchors(
    head: Any, boxes_wh: np.ndarray, *, threshold: float = 4.0, rng: np.random.Generator, generations: int = 1000
) -> bool:
    """Replace a head's anchors, in place, by ones that suit the data set, if its own do not and better are found.

    Box sizes are varied by up to a tenth, as augmentation will. To be called before the loss is built.

    Args:
        head: has `anchors` (nl, na, 2) in cells and `stride` (nl,) pixels per cell.
        boxes_wh: (M, 2) pixels of the network input, see `box_sizes`.
        threshold, rng, generations: see `search_anchors`.

    Returns:
        Whether the anchors were replaced.
    """
    if not len(boxes_wh) or not (boxes_wh >= MIN_SIDE).any():
        LOGGER.warning("anchors: no box to fit them to, kept as they are")
        return False
    anchors: Tensor = head.anchors
    strides = head.stride.detach().cpu().numpy().reshape(-1, 1, 1)
    current = (anchors.detach().float().cpu().numpy() * strides).reshape(-1, 2)
    boxes = boxes_wh * rng.uniform(0.9, 1.1, (len(boxes_wh), 1))
    fit = anchor_fit(current, boxes, threshold)
    told = f"anchors: best possible recall {fit.recall:.4f}, {fit.per_box:.2f} anchors per box"
    if fit.recall > GOOD_RECALL:
        LOGGER.info(f"{told}; they suit the data set")
        return False
    found = search_anchors(boxes, len(current), threshold=threshold, generations=generations, rng=rng)
    better = anchor_fit(found, boxes, threshold)
    if better.recall <= fit.recall:
        LOGGER.info(f"{told}; a search found none better, kept as they are")
        return False
    LOGGER.info(f"{told}; replaced by new ones: recall {better.recall:.4f}, {better.per_box:.2f} anchors per box")
    levels = found.reshape(tuple(anchors.shape))[strides.ravel().argsort().argsort()]  # small anchors, small strides
    anchors.copy_(anchors.new_tensor((levels / strides).tolist()))
    return True
