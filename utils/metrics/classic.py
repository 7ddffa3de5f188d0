"""Metrics under the names and with the arguments that other programs import from `utils.metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.metrics import confusion
from utils.metrics.ap import RECALL_POINTS, average_precision, compute_envelope, smooth_curve
from utils.metrics.arrays import to_numpy
from utils.metrics.detection import MAP50_WEIGHT, MAP_WEIGHT
from utils.ops import boxes as geometry
from utils.plots.curves import format_best, plot_confusion_matrix, plot_curves, plot_lines

Names = Mapping[int, str] | Sequence[str]


# -- overlaps ----------------------------------------------------------------------------------------------------------


def bbox_iou(
    box1: Tensor, box2: Tensor, xywh: bool = True, GIoU: bool = False, DIoU: bool = False, CIoU: bool = False,
    eps: float = geometry.EPS, *, x1y1x2y2: bool | None = None,
) -> Tensor:  # fmt: skip
    """IoU of box pairs, or of one box with N, as center and size or corners (see `utils.ops.boxes.box_iou`).

    Args:
        box1, box2: (N, 4) or (1, 4), and (N, 4).
        xywh: boxes are center and size, not corners.
        x1y1x2y2: the form before release 7.0, if given: boxes are corners, or center and size with False; `box1` is
            (4,) or (4, N), its transpose, and the result is (N,).

    Returns:
        (N, 1).
    """
    if x1y1x2y2 is not None:
        return bbox_iou(box1.T if box1.ndim == 2 else box1, box2, not x1y1x2y2, GIoU, DIoU, CIoU, eps)[..., 0]
    if xywh:
        box1, box2 = geometry.xywh_to_xyxy(box1), geometry.xywh_to_xyxy(box2)
    kind: geometry.IoUKind = "ciou" if CIoU else "diou" if DIoU else "giou" if GIoU else "iou"
    return geometry.box_iou(box1, box2, kind, eps)[..., None]


def box_iou(box1: Tensor, box2: Tensor, eps: float = geometry.EPS) -> Tensor:
    """Pairwise IoU (N, M) of boxes given by corners."""
    return geometry.box_iou_matrix(box1, box2, eps)


def bbox_ioa(box1: np.ndarray, box2: np.ndarray, eps: float = geometry.EPS) -> np.ndarray:
    """Intersection over the area of the second box, for boxes given by corners.

    Args:
        box1: (N, 4), or (4,) as before release 7.0. box2: (M, 4).

    Returns:
        (N, M), or (M,) for a single `box1`.
    """
    first = np.atleast_2d(box1)[:, None]  # (N, 1, 4)
    sides = np.minimum(first[..., 2:4], box2[:, 2:4]) - np.maximum(first[..., :2], box2[:, :2])
    ratios = sides.clip(min=0).prod(axis=2) / (geometry.box_area(box2) + eps)  # (N, M)
    return ratios if np.ndim(box1) == 2 else ratios[0]


def wh_iou(wh1: Tensor, wh2: Tensor, eps: float = geometry.EPS) -> Tensor:
    """Pairwise IoU (N, M) of widths and heights (N, 2) and (M, 2), as of boxes with a common corner."""
    inter = torch.minimum(wh1[:, None], wh2[None]).prod(dim=2)
    return inter / (wh1.prod(dim=1)[:, None] + wh2.prod(dim=1) - inter + eps)


# -- average precision -------------------------------------------------------------------------------------------------


def fitness(x: np.ndarray) -> np.ndarray:
    """Fitness (n,) of rows precision, recall, mAP50, mAP50-95, ...; further columns are ignored."""
    return MAP50_WEIGHT * x[:, 2] + MAP_WEIGHT * x[:, 3]


def smooth(y: np.ndarray, f: float = 0.05) -> np.ndarray:
    """Moving average (n,) over a fraction `f` of the values `y`, which are padded with those at the ends."""
    return smooth_curve(np.asarray(y), f)


def compute_ap(
    recall: np.ndarray | Sequence[float], precision: np.ndarray | Sequence[float]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Average precision of a curve of n points, sampled at 101 recalls.

    Args:
        recall, precision: (n,), recall rising.

    Returns:
        The average precision, the precision envelope (n + 2,) and its recalls (n + 2,).
    """
    envelope_recall, envelope = compute_envelope(np.asarray(recall), np.asarray(precision))
    sampled = np.interp(RECALL_POINTS, envelope_recall, envelope)
    return float(np.trapezoid(sampled, RECALL_POINTS)), envelope, envelope_recall


def ap_per_class(
    tp: np.ndarray, conf: np.ndarray, pred_cls: np.ndarray, target_cls: np.ndarray, plot: bool = False,
    save_dir: str | Path = ".", names: Names = (), eps: float = 1e-16, prefix: str = "",
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """tp, fp, p, r, f1, ap (classes, thresholds) and classes of `utils.metrics.ap.average_precision`.

    Releases 5.0 and 6.0 returned p, r, ap, f1 and classes: `_, _, p, r, f1, ap, classes = ap_per_class(...)` here.

    Args:
        plot: plot curves to `save_dir`, with `prefix` before the file names.
        eps: ignored.
    """
    result = average_precision(tp, conf, pred_cls, target_cls)
    if plot:
        plot_curves(result, _to_dict(names), Path(save_dir), prefix=prefix)
    return result.tp, result.fp, result.p, result.r, result.f1, result.ap, result.classes


def plot_pr_curve(
    px: np.ndarray, py: Sequence[np.ndarray] | np.ndarray, ap: np.ndarray, save_dir: str | Path = "pr_curve.png",
    names: Names = (),
) -> None:  # fmt: skip
    """Plot precision over recall.

    Args:
        px: (n,) recalls. py: k arrays (n,) of precision, one per class.
        ap: (k, thresholds) average precision; the first column is shown.
        save_dir: file to write.
        names: names of the k classes.
    """
    values, scores = np.asarray(py).reshape(-1, len(px)), np.asarray(ap).reshape(len(py), -1)[:, :1].ravel()
    labels = [f"{name} {score:.3f}" for name, score in zip(_list_names(names, len(values)), scores, strict=True)]
    mean = f"all classes: mAP 0.5 {scores.mean():.3f}" if len(scores) else ""
    plot_lines(Path(save_dir), px, values, labels, mean, ("Recall", "Precision"), range(len(values)))


def plot_mc_curve(
    px: np.ndarray, py: Sequence[np.ndarray] | np.ndarray, save_dir: str | Path = "mc_curve.png", names: Names = (),
    xlabel: str = "Confidence", ylabel: str = "Metric",
) -> None:  # fmt: skip
    """Plot a metric over the confidence.

    Args:
        px: (n,) confidences. py: (k, n) values, one row per class.
        save_dir: file to write.
        names: names of the k classes.
        xlabel, ylabel: names of the axes.
    """
    values = np.asarray(py).reshape(-1, len(px))
    labels, mean = _list_names(names, len(values)), format_best(ylabel, px, values)
    plot_lines(Path(save_dir), px, values, labels, mean, (xlabel, ylabel), range(len(values)))


# -- confusion matrix --------------------------------------------------------------------------------------------------


class ConfusionMatrix(confusion.ConfusionMatrix):
    """`utils.metrics.confusion.ConfusionMatrix` with the methods of the original."""

    def __init__(self, nc: int, conf: float = 0.25, iou_thres: float = 0.45) -> None:
        super().__init__(nc, conf, iou_thres)
        self.nc = nc

    def process_batch(self, detections: Any, labels: Any) -> None:
        """Count one image, arguments as of `update`; with None for `detections`, labels may be classes (m,) alone."""
        if detections is None:
            classes = to_numpy(labels)
            classes = classes[:, 0] if classes.ndim == 2 else classes
            labels = np.concatenate((classes.reshape(-1, 1), np.zeros((classes.size, 4))), axis=1)
        self.update(detections, labels)

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives, (nc,) each."""
        return self.true_positives, self.false_positives

    def plot(self, normalize: bool = True, save_dir: str | Path = "", names: Names = ()) -> None:
        """Plot `confusion_matrix.png`: fractions of each true class, or counts without `normalize`."""
        file = Path(save_dir) / "confusion_matrix.png"
        plot_confusion_matrix(self.matrix, _to_dict(names), file, normalize=normalize)

    def print(self) -> None:
        """Print the counts, one line per predicted class."""
        for row in self.matrix:
            print(" ".join(f"{count:g}" for count in row))


def _to_dict(names: Names) -> dict[int, str]:
    return dict(names.items() if isinstance(names, Mapping) else enumerate(names))


def _list_names(names: Names, count: int) -> list[str]:
    """Names of the classes of `count` curves, in their order."""
    by_number = _to_dict(names)
    return [by_number.get(number, str(number)) for number in range(count)]
