"""Evaluation metrics: average precision, confusion matrix, COCO.

Names that other programs import from here (`from utils.metrics import bbox_iou`) are those of `utils.metrics.classic`.
"""

from __future__ import annotations

import importlib
from typing import Any

PROVIDED = ("ConfusionMatrix", "ap_per_class", "bbox_iou", "box_iou", "fitness")


def __getattr__(name: str) -> Any:
    """A name of PROVIDED, loaded when first asked for."""
    if name in PROVIDED:
        return getattr(importlib.import_module("utils.metrics.classic"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
