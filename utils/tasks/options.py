"""Options of a task, taken from the settings of a command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from utils.config.train import TrainConfig
from utils.config.val import ValConfig


@dataclass(frozen=True)
class Overrides:
    """Values that replace those of a model YAML, as far as the task has them; None keeps the YAML's.

    Attributes:
        nc: classes.
        anchors: anchors per level.
        n_segcls: classes of the semantic mask.
    """

    nc: int | None = None
    anchors: float | None = None
    n_segcls: int | None = None


NO_OVERRIDES = Overrides()


@dataclass(frozen=True)
class DataOptions:
    """How images are loaded.

    Attributes:
        imgsz: side of the network input in pixels, already a multiple of `stride`.
        batch_size: images in a batch.
        workers: loader processes, at most.
        cache: None, "ram", "disk" or "val" (the validation split in RAM).
        rect, quad, single_cls: as the flags of train.py.
        stride: largest stride of the network.
        fixed_hw: the only input size of an exported model, which all images are fitted into; None if it takes any.
        mosaic_epochs: number of epochs with mosaic, the first ones; None for all.
        tile: train and validate on tiles of this side of larger images; 0 for `imgsz`, None for whole images.
        tile_overlap, tile_visible: as in `tile_index`.
        original_size: load images in their own size for validation, one a batch.
        pin_memory: load into page-locked memory, from which CUDA copies faster.
    """

    imgsz: int = 640
    batch_size: int = 16
    workers: int = 8
    seed: int = 0
    cache: str | None = None
    rect: bool = False
    quad: bool = False
    single_cls: bool = False
    stride: int = 32
    fixed_hw: tuple[int, int] | None = None
    mosaic_epochs: int | None = None
    tile: int | None = None
    tile_overlap: float = 0.2
    tile_visible: float = 0.3
    original_size: bool = False
    pin_memory: bool = False

    @property
    def train_cache(self) -> str | None:
        """Where the training split is cached."""
        return None if self.cache == "val" else self.cache

    @property
    def val_cache(self) -> str | None:
        """Where a split that is only measured is cached."""
        return "ram" if self.cache == "val" else self.cache


@dataclass(frozen=True)
class PostprocessOptions:
    """From the output of a network to predictions; the defaults are those of validation.

    Attributes:
        conf_thres, iou_thres, classes, agnostic, max_det, multi_label: as in `non_max_suppression`.
        single_cls: all classes are one.
        original: in pixels of the original images; else of the network input.
        round_boxes: round the corners to whole pixels.
        retina_masks: upsample masks to the original image before they are thresholded; else to the network input.
    """

    conf_thres: float = 0.001
    iou_thres: float = 0.6
    classes: Sequence[int] | None = None
    agnostic: bool = False
    max_det: int = 300
    multi_label: bool = True
    single_cls: bool = False
    original: bool = False
    round_boxes: bool = False
    retina_masks: bool = False


PREDICT_DEFAULTS = PostprocessOptions(0.25, 0.45, max_det=1000, multi_label=False, original=True)


@dataclass(frozen=True)
class SpecificOptions:
    """Settings that one task reads; a subclass has fields named as those of the task's configs."""

    @classmethod
    def from_train_config(cls, config: TrainConfig) -> Self:
        """The settings of a training run."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls)})

    @classmethod
    def from_val_config(cls, config: ValConfig) -> Self:
        """The settings of a validation run."""
        return cls()


@dataclass(frozen=True)
class TaskOptions:
    """Settings of a run that a task needs.

    Attributes:
        data: how images are loaded.
        postprocess: of validation.
        specific: what only this task reads, an object of its `options_type`; None for the defaults.
        verbose: a table row per class and every message about the labels.
    """

    data: DataOptions = field(default_factory=DataOptions)
    postprocess: PostprocessOptions = field(default_factory=PostprocessOptions)
    specific: Any = None
    verbose: bool = False
