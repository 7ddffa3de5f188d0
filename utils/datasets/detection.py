"""Training and validation samples of pictures with boxes: what the loader asks for, one picture or mosaic at a time."""

from __future__ import annotations

import cv2
import numpy as np
from torch.utils.data import Dataset

from utils.datasets.image_io import read_image
from utils.datasets.index import ImageIndex
from utils.datasets.letterbox import fitted_size, load_size, pad_to, rect_shapes, resize
from utils.hyp import Hyperparameters
from utils.types import Sample


class DetectionDataset(Dataset[Sample]):
    """Samples of an `ImageIndex`, augmented or just fitted into the network input.

    Args:
        index: pictures and labels; with `rect` the data set holds them sorted by height over width.
        imgsz: longer side of the network input.
        hyp: strengths of the augmentations.
        augment: mosaic, affine, colours and flips; False fits each picture and keeps its `Letterbox`.
        rect: give each batch the smallest input that fits its pictures; no mosaic.
        batch_size: pictures that share an input size with `rect`.
        stride: input sizes are multiples of it.
        pad: extra border of rect batches, in strides.
        seed: of the augmentations; a sample depends on (seed, epoch, index) and nothing else.
        cache: "ram" or "disk" keeps decoded pictures.
        channels: of the network input.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        imgsz: int,
        hyp: Hyperparameters,
        augment: bool,
        rect: bool = False,
        batch_size: int = 16,
        stride: int = 32,
        pad: float = 0.0,
        seed: int = 0,
        cache: str | None = None,
        channels: int = 3,
    ) -> None:
        if rect:
            index = index.subset(np.argsort(index.sizes_hw[:, 0] / index.sizes_hw[:, 1], kind="stable"))
        self.index = index
        self.imgsz = imgsz
        self.hyp = hyp
        self.augment = augment
        self.batch_size = batch_size
        self.seed = seed
        self.channels = channels
        self.shapes_hw: np.ndarray | None = None
        if rect:
            self.shapes_hw = rect_shapes(index.sizes_hw, batch_size, imgsz=imgsz, stride=stride, pad=pad)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Sample of (epoch, position), or of a position in epoch 0."""
        epoch, i = (0, key) if isinstance(key, int) else key
        return self.fitted(i)

    def input_hw(self, i: int) -> tuple[int, int]:
        """Network input size of picture i, pixels."""
        if self.shapes_hw is None:
            return self.imgsz, self.imgsz
        height, width = self.shapes_hw[i // self.batch_size]
        return int(height), int(width)

    def fitted(self, i: int) -> Sample:
        """Picture i as it is validated: longer side `imgsz`, centred on grey, never enlarged beyond that."""
        frame = read_image(self.index.paths[i], channels=self.channels)
        original_hw = (frame.shape[0], frame.shape[1])
        size_hw = load_size(original_hw, self.imgsz)
        size_hw = fitted_size(size_hw, self.input_hw(i), scale_up=False)
        shrinks = max(size_hw) < max(original_hw)
        inner = resize(frame, size_hw, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        image, fit = pad_to(inner, self.input_hw(i), original_hw=original_hw)
        classes, boxes_xywhn, polygons = self.index.labels(i)
        scale_wh = np.array([size_hw[1], size_hw[0]], np.float32)
        offset_wh = np.array(fit.pad_wh, np.float32)
        half_wh = boxes_xywhn[:, 2:] / 2
        corners = np.concatenate([boxes_xywhn[:, :2] - half_wh, boxes_xywhn[:, :2] + half_wh], axis=1)
        return Sample(
            image,
            corners * np.tile(scale_wh, 2) + np.tile(offset_wh, 2),
            classes.astype(np.int64),
            polygons=None
            if polygons is None
            else [[ring * scale_wh + offset_wh for ring in rings] for rings in polygons],
            path=self.index.paths[i],
            letterbox=fit,
        )
