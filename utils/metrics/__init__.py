"""Evaluation metrics: average precision, confusion matrix, COCO.

Names that other programs import from here (`from utils.metrics import bbox_iou`) come from `utils.metrics.classic`.
"""

from __future__ import annotations

from utils.core.lazy import OUTSIDE, lazy_exports

PUBLIC_NAMES = (
    *("ConfusionMatrix", "ap_per_class", "bbox_ioa", "bbox_iou", "box_iou", "compute_ap", "fitness", "plot_mc_curve"),
    *("plot_pr_curve", "smooth", "wh_iou"),
)
MODULES = ("Path", "math", "np", "plt", "torch", "warnings")  # which the original imports
__all__ = [*PUBLIC_NAMES, *MODULES]

__getattr__ = lazy_exports(
    __name__,
    dict.fromkeys(PUBLIC_NAMES, "utils.metrics.classic")
    | dict.fromkeys(("TryExcept", "threaded"), "utils")
    | {name: OUTSIDE[name] for name in MODULES},
)
