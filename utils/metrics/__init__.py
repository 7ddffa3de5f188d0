"""Evaluation metrics: average precision, confusion matrix, COCO.

Names that other programs import from here (`from utils.metrics import bbox_iou`) come from `utils.metrics.classic`.
"""

from __future__ import annotations

from utils.core.lazy import lazy_exports

PUBLIC_NAMES = ("ConfusionMatrix", "ap_per_class", "bbox_iou", "box_iou", "fitness")

__getattr__ = lazy_exports(__name__, dict.fromkeys(PUBLIC_NAMES, "utils.metrics.classic"))
