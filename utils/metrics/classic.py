"""Metrics under the names and with the arguments that other programs import from `utils.metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils import plots
from utils.metrics import confusion
from utils.metrics.ap import average_precision
from utils.metrics.detection import MAP50_WEIGHT, MAP_WEIGHT
from utils.ops import boxes as geometry


def bbox_iou(
    box1: Tensor, box2: Tensor, xywh: bool = True, GIoU: bool = False, DIoU: bool = False, CIoU: bool = False,
    eps: float = geometry.EPS,
) -> Tensor:  # fmt: skip
    """IoU (N, 1) of box pairs, or of one box with N, as center and size or corners (see `utils.ops.boxes.box_iou`)."""
    if xywh:
        box1, box2 = geometry.xywh_to_xyxy(box1), geometry.xywh_to_xyxy(box2)
    kind: geometry.IoUKind = "ciou" if CIoU else "diou" if DIoU else "giou" if GIoU else "iou"
    return geometry.box_iou(box1, box2, kind, eps)[..., None]


def box_iou(box1: Tensor, box2: Tensor, eps: float = geometry.EPS) -> Tensor:
    """Pairwise IoU (N, M) of boxes given by corners."""
    return geometry.box_iou_matrix(box1, box2, eps)


def fitness(x: np.ndarray) -> np.ndarray:
    """Fitness (n,) of rows precision, recall, mAP50, mAP50-95, ...; further columns are ignored."""
    return MAP50_WEIGHT * x[:, 2] + MAP_WEIGHT * x[:, 3]


def ap_per_class(
    tp: np.ndarray, conf: np.ndarray, pred_cls: np.ndarray, target_cls: np.ndarray, plot: bool = False,
    save_dir: str | Path = ".", names: Mapping[int, str] | Sequence[str] = (), eps: float = 1e-16, prefix: str = "",
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """tp, fp, p, r, f1, ap (classes, thresholds) and classes of `utils.metrics.ap.average_precision`.

    Args:
        plot: plot curves to `save_dir`, with `prefix` before the file names.
        eps: ignored.
    """
    result = average_precision(tp, conf, pred_cls, target_cls)
    if plot:
        plots.plot_curves(result, _to_dict(names), Path(save_dir), prefix=prefix)
    return result.tp, result.fp, result.p, result.r, result.f1, result.ap, result.classes


class ConfusionMatrix(confusion.ConfusionMatrix):
    """`utils.metrics.confusion.ConfusionMatrix` with the methods of the original."""

    def __init__(self, nc: int, conf: float = 0.25, iou_thres: float = 0.45) -> None:
        super().__init__(nc, conf, iou_thres)
        self.nc = nc

    def process_batch(self, detections: Any, labels: Any) -> None:
        self.update(detections, labels)

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        return self.true_positives, self.false_positives

    def plot(
        self, normalize: bool = True, save_dir: str | Path = "", names: Mapping[int, str] | Sequence[str] = ()
    ) -> None:
        """Plot `confusion_matrix.png`, always normalized by true class."""
        plots.plot_confusion_matrix(self.matrix, _to_dict(names), Path(save_dir) / "confusion_matrix.png")

    def print(self) -> None:
        """Print the counts, one line per predicted class."""
        for row in self.matrix:
            print(" ".join(f"{count:g}" for count in row))


def _to_dict(names: Mapping[int, str] | Sequence[str]) -> dict[int, str]:
    return dict(names.items() if isinstance(names, Mapping) else enumerate(names))
