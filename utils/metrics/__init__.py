"""Evaluation metrics: average precision, confusion matrix, COCO.

Names that other programs import from here (`from utils.metrics import bbox_iou`) come from `utils.metrics.classic`.
"""

from __future__ import annotations

import importlib
from typing import Any

PUBLIC_NAMES = ("ConfusionMatrix", "ap_per_class", "bbox_iou", "box_iou", "fitness")


def __getattr__(name: str) -> Any:
    """Import a name of PUBLIC_NAMES on first use."""
    if name in PUBLIC_NAMES:
        return getattr(importlib.import_module("utils.metrics.classic"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
