"""The objects that travel between data, model, task and engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from utils.ops.masks import ObjectMasks
    from utils.ops.prototypes import CodedMasks

Polygons = list[list[np.ndarray]]  # one entry per object: its rings, each (K, 2) float32 x, y


@dataclass(frozen=True)
class Letterbox:
    """How an image was fitted into the network input: x_input = x_original * ratio + pad.

    Attributes:
        original_hw: size of the image as stored (after EXIF rotation), pixels.
        ratio_wh: network pixels per original pixel along x and y.
        pad_wh: pixels of padding left of and above the image, as really placed.
    """

    original_hw: tuple[int, int]
    ratio_wh: tuple[float, float] = (1.0, 1.0)
    pad_wh: tuple[int, int] = (0, 0)


@dataclass
class Sample:
    """One image with its ground truth; every augmentation moves all parts together.

    Attributes:
        image: (H, W, C) uint8; C = 3 is BGR, other channel counts come from .npy or multi-page TIFF.
        boxes_xyxy: (N, 4) float32, pixels of `image`.
        classes: (N,) int64.
        polygons: one list of rings per object in pixels of `image`, or None where the set has boxes only;
            an object without a polygon in a mixed set has its box's four corners.
        semantic_mask: (H, W) uint8 class per pixel, 255 = ignore, or None.
        label: class of the whole image, or None.
        path: the file the image came from (of the first tile for a mosaic).
        letterbox: how the image was fitted, for mapping results back; None for composed images.
        original_map: (H, W) uint8 semantic mask at the size of the image as stored, for validation, or None.
    """

    image: np.ndarray
    boxes_xyxy: np.ndarray
    classes: np.ndarray
    polygons: Polygons | None = None
    semantic_mask: np.ndarray | None = None
    path: str = ""
    letterbox: Letterbox | None = None
    label: int | None = None
    original_map: np.ndarray | None = None


@dataclass
class Batch:
    """One step's input.

    Attributes:
        images: (B, C, H, W) uint8, RGB where C = 3, in channels_last order.
        targets: (N, 6) float32: image index in the batch, class, x, y, w, h over the input's width and height.
        paths: B file names.
        letterboxes: B fits, None for composed training images.
        masks: of the segmentation task, or None: (N, h, w) bool, row i is that of target i; or (B, h, w) int16, which
            of an image's targets shows at each pixel, 1 for its first; 0 for none.
        semantic_masks: (B, H, W) uint8 of the semantic task, 255 = ignore, or None.
        labels: (B,) int64 of the classification task, or None.
        original_maps: B semantic masks, each (H, W) uint8 at the size of its image as stored, or None. They stay on the
            CPU.
        kind: what the batch is for where a step has several; "" for everything that it has labels of.
    """

    images: Tensor
    targets: Tensor
    paths: list[str]
    letterboxes: list[Letterbox | None] = field(default_factory=list)
    masks: Tensor | None = None
    semantic_masks: Tensor | None = None
    labels: Tensor | None = None
    original_maps: list[Tensor] | None = None
    kind: str = ""

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def num_instances(self) -> int:
        """Labelled objects, or labelled images of the classification task."""
        return len(self.targets) if self.labels is None else len(self.labels)

    def without_images(self) -> Batch:
        """A batch of no image with everything of this one's form."""
        empty = self._with_tensors(lambda tensor: tensor[:0])
        return replace(empty, paths=[], letterboxes=[], original_maps=None if self.original_maps is None else [])

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on `device`."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by DataLoader's pin thread)."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `change` applied to every tensor there is."""
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
        masks: of the n boxes, not decoded yet.
        bitmaps: the masks decoded, in pixels of the original image.
        semantic_mask: (H, W) class per pixel, of an integer type.
        probs: (num_classes,) of a classifier.
    """

    boxes: Tensor | None = None
    masks: CodedMasks | None = None
    bitmaps: ObjectMasks | None = None
    semantic_mask: Tensor | None = None
    probs: Tensor | None = None


@dataclass(frozen=True)
class Suppressed:
    """Output of a network with NMS inside.

    Attributes:
        rows: (B, max_det, 6) x1, y1, x2, y2 in pixels of the network input, score, class; unused rows are zero.
    """

    rows: Tensor


@dataclass
class EvalResult:
    """What a pass over a split gave.

    Attributes:
        metrics: values by their names in results.csv, `metrics/...`.
        fitness: the number by which best.pt is chosen, higher is better.
        per_class: (num_classes,) main metric of each class, for drawing images of weak classes.
        table: the lines a user reads.
        details: task-specific arrays, for plots.
    """

    metrics: dict[str, float]
    fitness: float
    per_class: np.ndarray
    table: str
    details: dict[str, Any] = field(default_factory=dict)
