"""Public address of instance segmentation metrics, with their known signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.metrics import classic
from utils.metrics.detection import METRICS

LOSSES = ("box_loss", "seg_loss", "obj_loss", "cls_loss")
SUFFIXES = ("(B)", "(M)")  # of the metrics of boxes and of masks
_NAMES = [f"{name}{suffix}" for suffix in SUFFIXES for name in METRICS]
KEYS = [
    *(f"train/{name}" for name in LOSSES),
    *(f"metrics/{name}" for name in _NAMES),
    *(f"val/{name}" for name in LOSSES),
    *(f"x/lr{group}" for group in range(3)),
]
BEST_KEYS = ["best/epoch", *(f"best/{name}" for name in _NAMES)]


def fitness(x: np.ndarray) -> np.ndarray:
    """Fitness (n,) of rows with precision, recall, mAP50 and mAP50-95 of boxes, then of masks; others are ignored."""
    return classic.fitness(x[:, :4]) + classic.fitness(x[:, 4:8])


def ap_per_class_box_and_mask(
    tp_m: np.ndarray, tp_b: np.ndarray, conf: np.ndarray, pred_cls: np.ndarray, target_cls: np.ndarray,
    plot: bool = False, save_dir: str | Path = ".", names: Mapping[int, str] | Sequence[str] = (),
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """Metrics of the classes with labels: `boxes` and `masks`, each with p, r, ap, f1 and ap_class.

    Args:
        tp_m, tp_b: (n, thresholds) true positives of masks and boxes.
        others: as for `utils.metrics.ap_per_class`; plots are named `Box...` and `Mask...`.
    """
    results = {}
    for name, prefix, tp in (("boxes", "Box", tp_b), ("masks", "Mask", tp_m)):
        _, _, p, r, f1, ap, classes = classic.ap_per_class(
            tp, conf, pred_cls, target_cls, plot, save_dir, names, prefix=prefix
        )
        results[name] = {"p": p, "r": r, "ap": ap, "f1": f1, "ap_class": classes}
    return results


class Metric:
    """Metrics of the k classes with labels, of one type of overlap.

    Attributes:
        p, r, f1: (k,) precision, recall and F1.
        all_ap: (k, thresholds) average precision.
        ap_class_index: (k,) class numbers.
    """

    def __init__(self) -> None:
        self.p, self.r, self.f1 = np.zeros(0), np.zeros(0), np.zeros(0)
        self.all_ap = np.zeros((0, 10))
        self.ap_class_index = np.zeros(0, np.int64)

    @property
    def ap50(self) -> np.ndarray:
        """AP (k,) at IoU 0.5."""
        return self.all_ap[:, 0]

    @property
    def ap(self) -> np.ndarray:
        """Mean AP (k,) over the thresholds."""
        return self.all_ap.mean(axis=1)

    @property
    def mp(self) -> float:
        """Mean precision; 0 without classes, as the other means."""
        return _mean(self.p)

    @property
    def mr(self) -> float:
        """Mean recall."""
        return _mean(self.r)

    @property
    def map50(self) -> float:
        """Mean AP at IoU 0.5."""
        return _mean(self.ap50)

    @property
    def map(self) -> float:
        """Mean AP over the thresholds."""
        return _mean(self.ap)

    def mean_results(self) -> tuple[float, ...]:
        """Mean precision, recall, AP50 and AP50-95."""
        return tuple(_mean(values) for values in self._columns)

    def class_result(self, i: int) -> tuple[float, ...]:
        """Precision, recall, AP50 and AP50-95 of the i-th class with labels."""
        return tuple(float(values[i]) for values in self._columns)

    def get_maps(self, nc: int) -> np.ndarray:
        """AP50-95 (nc,) of all classes; those without labels have the mean of the others."""
        maps = np.full(nc, self.map)
        maps[self.ap_class_index] = self.ap
        return maps

    def update(self, results: Sequence[np.ndarray]) -> None:
        """Replace the metrics by precision, recall, AP, F1 and classes."""
        self.p, self.r, self.all_ap, self.f1, self.ap_class_index = (np.asarray(values) for values in results)

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.p, self.r, self.ap50, self.ap


class Metrics:
    """Metrics of boxes and masks.

    Attributes:
        metric_box, metric_mask: of each type.
    """

    def __init__(self) -> None:
        self.metric_box, self.metric_mask = Metric(), Metric()

    def update(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the metrics by those of `ap_per_class_box_and_mask`."""
        for metric, values in ((self.metric_box, results["boxes"]), (self.metric_mask, results["masks"])):
            metric.update([values[name] for name in ("p", "r", "ap", "f1", "ap_class")])

    def mean_results(self) -> tuple[float, ...]:
        """The eight means: precision, recall, AP50 and AP50-95 of boxes, then of masks."""
        return self.metric_box.mean_results() + self.metric_mask.mean_results()

    def class_result(self, i: int) -> tuple[float, ...]:
        """The same eight values of the i-th class with labels."""
        return self.metric_box.class_result(i) + self.metric_mask.class_result(i)

    def get_maps(self, nc: int) -> np.ndarray:
        """AP50-95 (nc,) of boxes plus that of masks."""
        return self.metric_box.get_maps(nc) + self.metric_mask.get_maps(nc)

    @property
    def ap_class_index(self) -> np.ndarray:
        """Numbers (k,) of the classes with labels."""
        return self.metric_box.ap_class_index


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
