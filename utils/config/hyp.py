"""Hyperparameters of training (`--hyp`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.limits import check_limit
from utils.core.yaml_files import read_yaml

PROBABILITIES = ("flipud", "fliplr", "mosaic", "mixup", "cutmix", "copy_paste")
MAX_VALUE = 1e6  # of any hyperparameter
MAX_ANCHORS = 1_000  # per level
MAX_NAMES, MAX_SHOWN = 5, 40  # unknown names in a message, and characters of a name or value
BELOW_ONE = {
    "momentum": "gradients would never decay",
    "warmup_momentum": "gradients would never decay",
    "scale": "the minimum zoom 1 - scale must be above 0",
}


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters, named as in the YAML file; loss gains are not yet scaled by levels, classes and image size.

    Attributes:
        anchors: number of anchors per level, which replace those of the model, or None.
        cutmix: probability of CutMix.
        albumentations: serialized Albumentations pipeline (`A.to_dict(...)`), or None for the default one.
        seg_low, seg_high, seg_std, seg_brightness, seg_contrast, seg_saturation, seg_hue: see `SemanticAugmentation`.
        warmup_iterations: minimum length of the warm-up, also with 0 warmup_epochs.
        nominal_batch: images per optimizer step; gradients of smaller batches are accumulated.
    """

    lr0: float = 0.01
    lrf: float = 0.01
    momentum: float = 0.937
    weight_decay: float = 0.0005
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    box: float = 0.05
    cls: float = 0.5
    cls_pw: float = 1.0
    obj: float = 1.0
    obj_pw: float = 1.0
    iou_t: float = 0.2
    anchor_t: float = 4.0
    anchors: float | None = None
    fl_gamma: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.5
    mosaic: float = 1.0
    mosaic9: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    copy_paste: float = 0.0
    albumentations: Mapping[str, Any] | None = None
    label_smoothing: float = 0.0
    seg_low: float = 0.75
    seg_high: float = 1.5
    seg_std: float = 35.0
    seg_brightness: float = 0.4
    seg_contrast: float = 0.4
    seg_saturation: float = 0.4
    seg_hue: float = 0.0
    nominal_batch: float = 64
    warmup_iterations: float = 100

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str) -> Hyperparameters:
        """Check the values; InputError names `source`, key and value."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(map(str, values.keys() - known)):
            shown = ", ".join(f"{name[:MAX_SHOWN]!r}" for name in unknown[:MAX_NAMES])
            raise InputError(f"{source}: unknown hyperparameter {shown}; known: {', '.join(sorted(known))}")
        for name, value in values.items():
            _check(name, value, source)
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path, *, defaults: Mapping[str, Any] | None = None) -> Hyperparameters:
        """Read a YAML file; `defaults` for missing keys precede those of this class."""
        values = read_yaml(path)
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected `name: number` lines, see data/hyps/hyp.scratch-low.yaml")
        parsed = {str(name): _to_number(value) for name, value in values.items()}
        return cls.from_dict({**(defaults or {}), **parsed}, source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for hyp.yaml and checkpoints."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def _to_number(value: Any) -> Any:
    """The value as a number: YAML 1.1 parses `1e-3` as a string."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _check(name: str, value: Any, source: str) -> None:
    """InputError unless `value` is valid for hyperparameter `name`."""
    if name == "albumentations":
        if value is not None and not isinstance(value, Mapping):
            shown = type(value).__name__
            raise InputError(f"{source}: albumentations: expected a serialized pipeline (A.to_dict), got {shown}")
        return
    if name == "anchors" and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise InputError(f"{source}: {name}: {f'{value!r}'[:MAX_SHOWN]} is not a finite number")
    if value > MAX_VALUE:
        raise InputError(f"{source}: {name}: {f'{value}'[:MAX_SHOWN]} must be at most {MAX_VALUE:,.0f}")
    if name in (*PROBABILITIES, "mosaic9", "label_smoothing") and not 0 <= value <= 1:
        raise InputError(f"{source}: {name}: {value} must be between 0 and 1")
    if value < 0:
        raise InputError(f"{source}: {name}: {value} must not be negative")
    if name in BELOW_ONE and value >= 1:
        raise InputError(f"{source}: {name}: {value} must be below 1 ({BELOW_ONE[name]})")
    if name == "anchors" and round(value) < 1:
        raise InputError(f"{source}: anchors: {value} must be at least 1; or omit the key")
    if name == "anchors":
        check_limit(f"{source}: anchors", "per level", value, MAX_ANCHORS)
    if name == "nominal_batch" and value < 1:
        raise InputError(f"{source}: nominal_batch: {value} must be at least 1")
    if name == "anchor_t" and value <= 1:
        raise InputError(f"{source}: anchor_t: {value} must be above 1 (maximum side ratio)")
