"""Data types shared by datasets, models, tasks and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from utils.ops.masks import ObjectMasks
    from utils.ops.prototypes import PrototypeMasks

Polygons = list[list[np.ndarray]]  # for each object its rings, each (K, 2) float32 x, y


@dataclass(frozen=True)
class Letterbox:
    """Transform of an image into the network input: x_input = x_original * ratio + pad.

    Attributes:
        original_hw: size of the stored image (after EXIF rotation), pixels.
        ratio_wh: network pixels per original pixel along x and y.
        pad_wh: padding left of and above the image, pixels.
    """

    original_hw: tuple[int, int]
    ratio_wh: tuple[float, float] = (1.0, 1.0)
    pad_wh: tuple[int, int] = (0, 0)


@dataclass
class Sample:
    """One image with its ground truth; augmentations transform all parts together.

    Attributes:
        image: (H, W, C) uint8, BGR if C = 3.
        boxes_xyxy: (N, 4) float32, pixels of `image`.
        classes: (N,) int64.
        polygons: pixels of `image`, or None if the data set has boxes only; objects without a polygon have the corners
            of their box.
        semantic_mask: (H, W) uint8 class of each pixel, 255 = ignore, or None.
        label: class of the whole image, or None.
        path: file of the image, or of the first tile of a mosaic.
        letterbox: maps results back to the original image; None for mosaics.
        original_mask: (H, W) uint8 semantic mask at the size of the stored image, for validation, or None.
    """

    image: np.ndarray
    boxes_xyxy: np.ndarray
    classes: np.ndarray
    polygons: Polygons | None = None
    semantic_mask: np.ndarray | None = None
    path: str = ""
    letterbox: Letterbox | None = None
    label: int | None = None
    original_mask: np.ndarray | None = None


@dataclass
class Batch:
    """Input of one step.

    Attributes:
        images: (B, C, H, W) uint8, RGB if C = 3, in channels_last order.
        targets: (N, 6) float32: image index in the batch, class, normalized center x, y, width, height.
        paths: B file names.
        letterboxes: B transforms, None for mosaics.
        masks: for instance segmentation, or None: (N, h, w) bool, one per target; or (B, h, w) int16, the number of
            the visible target of the image at each pixel, from 1; 0 for background.
        semantic_masks: (B, H, W) uint8 for semantic segmentation, 255 = ignore, or None.
        labels: (B,) int64 for classification, or None.
        original_masks: B semantic masks, each (H, W) uint8 at the size of the stored image, or None; on the CPU.
        kind: purpose of the batch if a step has several; "" for all labels that it has.
    """

    images: Tensor
    targets: Tensor
    paths: list[str]
    letterboxes: list[Letterbox | None] = field(default_factory=list)
    masks: Tensor | None = None
    semantic_masks: Tensor | None = None
    labels: Tensor | None = None
    original_masks: list[Tensor] | None = None
    kind: str = ""

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def num_instances(self) -> int:
        """Number of labeled objects, or of labeled images for classification."""
        return len(self.targets) if self.labels is None else len(self.labels)

    def make_empty(self) -> Batch:
        """A batch of this form without images."""
        empty = self._with_tensors(lambda tensor: tensor[:0])
        return replace(empty, paths=[], letterboxes=[], original_masks=None if self.original_masks is None else [])

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """The batch with all tensors on `device`."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in pinned memory; called by DataLoader."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `change` applied to all tensors."""
        changes: dict[str, Any] = {}
        for name in ("images", "targets", "masks", "semantic_masks", "labels"):
            tensor = getattr(self, name)
            changes[name] = None if tensor is None else change(tensor)
        return replace(self, **changes)


@dataclass
class Prediction:
    """What one image gave, in pixels of the network input until `Letterbox` maps it back.

    Attributes:
        boxes: (n, 6) x1, y1, x2, y2, score, class; None where the task has no boxes.
        masks: of the n boxes; not decoded yet, unless they were joined from tiles.
        bitmaps: the masks decoded, in pixels of the original image.
        semantic_mask: (H, W) class per pixel, of an integer type.
        probs: (num_classes,) of a classifier.
        extra: what a task predicts beyond these, by name.
    """

    boxes: Tensor | None = None
    masks: PrototypeMasks | ObjectMasks | None = None
    bitmaps: ObjectMasks | None = None
    semantic_mask: Tensor | None = None
    probs: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NMSOutput:
    """Output of a network that includes NMS.

    Attributes:
        rows: (B, max_det, 6) x1, y1, x2, y2 in pixels of the network input, score, class; unused rows are zero.
    """

    rows: Tensor


@dataclass
class EvalResult:
    """Result of an evaluation.

    Attributes:
        metrics: values by their names in results.csv, `metrics/...`.
        fitness: selects best.pt, higher is better.
        per_class: (num_classes,) main metric of each class, for `--image-weights`.
        table: summary for the log.
        details: task-specific arrays for plots.
    """

    metrics: dict[str, float]
    fitness: float
    per_class: np.ndarray
    table: str
    details: dict[str, Any] = field(default_factory=dict)
