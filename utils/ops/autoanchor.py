"""AutoAnchor: check how well anchors fit a data set and search for better ones.

`python -m utils.anchors --data coco128.yaml --img 640` prints and draws anchors for a data set.

The ratio of a box and an anchor, in (0, 1], is the smaller of min(w, a_w) / max(w, a_w) and the same of the heights. It
is computed in logarithms as exp(-max(|log w - log a_w|, |log h - log a_h|)), without divisions and with one exponential
per box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.logging import LOGGER

if TYPE_CHECKING:
    from torch import Tensor

GOOD_RECALL = 0.98  # anchors with a higher recall are kept
MIN_SIDE = 2.0  # pixels; smallest anchor side; boxes with both sides below are ignored
SMALL_SIDE = 3.0  # pixels; boxes with a side below are reported
KMEANS_ROUNDS = 30
MAX_BOXES = 50_000  # larger data sets are sampled


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit boxes.

    Attributes:
        recall: best possible recall, the fraction of boxes with an anchor within the threshold.
        per_box: mean number of anchors per box within the threshold.
        mean_best: mean ratio of the best anchor of each box.
    """

    recall: float
    per_box: float
    mean_best: float


def compute_anchor_fit(anchors_wh: np.ndarray, boxes_wh: np.ndarray, threshold: float = 4.0) -> AnchorFit:
    """Fit of anchors (K, 2) to boxes (N, 2), both width and height in pixels, N >= 1.

    Args:
        threshold: an anchor matches a box if no side differs by this factor or more (`anchor_t`).
    """
    gaps = _log_gaps(_logs(anchors_wh), _logs(boxes_wh))  # (K, N)
    best, limit = gaps.min(axis=0), np.log(threshold)
    return AnchorFit(
        float((best < limit).mean()), float((gaps < limit).sum(axis=0).mean()), float(np.exp(-best).mean())
    )


def search_anchors(
    boxes_wh: np.ndarray,
    count: int,
    *,
    rng: np.random.Generator,
    threshold: float = 4.0,
    generations: int = 1000,
) -> np.ndarray:
    """Search anchors for boxes: k-means on the sizes, then a genetic search for the best mean ratio.

    Args:
        boxes_wh: (N, 2) width and height in pixels of the network input.
        count: number of anchors K.
        rng: random generator; the same state gives the same anchors.
        threshold: see `compute_anchor_fit`.
        generations: steps of the genetic search; with 0 the k-means centers are returned.

    Returns:
        (K, 2) float64, smallest area first.

    Raises:
        ValueError: no box has a side of at least 2 pixels.
    """
    boxes = np.asarray(boxes_wh, dtype=np.float64)
    if small := int((boxes < SMALL_SIDE).any(axis=1).sum()):
        LOGGER.warning(f"AutoAnchor: {small} of {len(boxes)} boxes are less than {SMALL_SIDE:g} pixels wide or high")
    boxes = boxes[(boxes >= MIN_SIDE).any(axis=1)]
    if not len(boxes):
        raise ValueError(f"AutoAnchor: none of {len(boxes_wh)} boxes has a side of {MIN_SIDE:g} pixels or more")
    if len(boxes) > MAX_BOXES:
        boxes = rng.choice(boxes, MAX_BOXES, replace=False)
    anchors = _evolve(_kmeans(boxes, count, rng), boxes, threshold, generations, rng)
    return anchors[anchors.prod(axis=1).argsort(kind="stable")]


def _kmeans(boxes_wh: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Centers (count, 2) of k-means on sizes scaled to unit standard deviation, initialized by k-means++.

    With fewer distinct boxes than centers, the centers are the boxes and random sizes between them.
    """
    distinct = np.unique(boxes_wh, axis=0)
    if len(distinct) <= count:
        missing = (count - len(distinct), 2)
        return np.vstack((distinct, rng.uniform(distinct.min(axis=0), distinct.max(axis=0), missing)))
    std = boxes_wh.std(axis=0)
    points = boxes_wh / np.where(std > 0, std, 1)
    centers = _init_kmeans_pp(points, count, rng)
    for _ in range(KMEANS_ROUNDS):
        nearest = _square_distances(points, centers).argmin(axis=1)
        sizes = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, weights=column, minlength=count) for column in points.T], axis=1)
        new_centers = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centers)
        if np.array_equal(new_centers, centers):
            break
        centers = new_centers
    return centers * np.where(std > 0, std, 1)


def _init_kmeans_pp(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): draw each center by its squared distance to the earlier ones."""
    centers = points[rng.integers(len(points))][None]
    distances = _square_distances(points, centers)[:, 0]
    while len(centers) < count:
        center = points[rng.choice(len(points), p=distances / distances.sum())][None]
        centers = np.vstack((centers, center))
        distances = np.minimum(distances, _square_distances(points, center)[:, 0])
    return centers


def _square_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return np.square(points[:, None] - centers[None]).sum(axis=2)  # (N, K)


def _evolve(
    anchors_wh: np.ndarray, boxes_wh: np.ndarray, threshold: float, generations: int, rng: np.random.Generator
) -> np.ndarray:
    """Hill climbing: each generation scales the anchors by random factors and is kept if the fitness has risen.

    Fitness is the mean ratio of the best anchor of each box, 0 for boxes without a matching anchor.
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
    """Random factors in [0.3, 3]; about 90 % differ from 1, at least one."""
    factors = np.ones(shape)
    while (factors == 1).all():
        is_mutated = rng.random(shape) < 0.9
        factors = np.clip(1 + is_mutated * rng.random() * 0.1 * rng.standard_normal(shape), 0.3, 3.0)
    return factors


def _logs(sizes_wh: np.ndarray) -> np.ndarray:
    """Logarithms (2, N) float32 of sizes (N, 2); sides are at least 0.001 pixels."""
    return np.log(np.maximum(np.asarray(sizes_wh, np.float64), 1e-3)).T.astype(np.float32, order="C")


def _log_gaps(anchors: np.ndarray, boxes: np.ndarray, scratch: np.ndarray | None = None) -> np.ndarray:
    """Larger absolute difference (K, N) of logarithms (2, K) and (2, N), in `scratch` if given."""
    gaps = np.subtract(anchors[:, :, None], boxes[:, None], out=scratch)  # (2, K, N)
    np.abs(gaps, out=gaps)
    return np.maximum(gaps[0], gaps[1], out=gaps[0])


def compute_box_sizes(sizes_hw: np.ndarray, offsets: np.ndarray, boxes_xywhn: np.ndarray, imgsz: int) -> np.ndarray:
    """Sizes (M, 2) in pixels of all boxes of an image index, with images scaled to `imgsz`.

    Args:
        sizes_hw, offsets, boxes_xywhn: the arrays of an `ImageIndex`.
        imgsz: longer side of the scaled images.
    """
    longer_side = sizes_hw.max(axis=1, keepdims=True)
    scaled_wh = sizes_hw[:, ::-1] / longer_side * imgsz  # (N, 2)
    return np.repeat(scaled_wh, np.diff(offsets), axis=0) * boxes_xywhn[:, 2:]


def check_anchors(
    head: Any, boxes_wh: np.ndarray, *, threshold: float = 4.0, rng: np.random.Generator, generations: int = 1000
) -> bool:
    """Replace a head's anchors in place if they do not fit the data set and a search finds better ones.

    Box sizes are jittered by up to 10 %, as in augmentation. Call this before building the loss.

    Args:
        head: with `anchors` (nl, na, 2) in cells and `stride` (nl,) in pixels per cell.
        boxes_wh: (M, 2) in pixels of the network input (see `compute_box_sizes`).
        threshold, rng, generations: see `search_anchors`.

    Returns:
        Whether the anchors were replaced.
    """
    if not len(boxes_wh) or not (boxes_wh >= MIN_SIDE).any():
        LOGGER.warning("AutoAnchor: no boxes to fit anchors to; anchors unchanged")
        return False
    anchors: Tensor = head.anchors
    strides = head.stride.detach().cpu().numpy().reshape(-1, 1, 1)
    current = (anchors.detach().float().cpu().numpy() * strides).reshape(-1, 2)
    boxes = boxes_wh * rng.uniform(0.9, 1.1, (len(boxes_wh), 1))
    fit = compute_anchor_fit(current, boxes, threshold)
    summary = f"AutoAnchor: best possible recall {fit.recall:.4f}, {fit.per_box:.2f} anchors per box"
    if fit.recall > GOOD_RECALL:
        LOGGER.info(f"{summary}; anchors fit the data set")
        return False
    new_anchors = search_anchors(boxes, len(current), threshold=threshold, generations=generations, rng=rng)
    new_fit = compute_anchor_fit(new_anchors, boxes, threshold)
    if new_fit.recall <= fit.recall:
        LOGGER.info(f"{summary}; the search found no better anchors, anchors unchanged")
        return False
    LOGGER.info(f"{summary}; new anchors: recall {new_fit.recall:.4f}, {new_fit.per_box:.2f} anchors per box")
    levels = new_anchors.reshape(tuple(anchors.shape))[
        strides.ravel().argsort().argsort()
    ]  # small anchors, small strides
    anchors.copy_(anchors.new_tensor((levels / strides).tolist()))
    return True
