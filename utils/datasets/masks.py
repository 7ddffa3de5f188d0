"""Instance masks of a batch from the polygons of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.core.types import Sample
from utils.ops.masks import rasterize


@dataclass(frozen=True)
class MaskBuilder:
    """Builds `Batch.masks`.

    Attributes:
        ratio: image pixels per mask pixel, along each axis.
        overlap: build an index map per image instead of a mask per object; small objects are in front of large ones.
    """

    ratio: int = 4
    overlap: bool = False

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """Masks of samples of the same size."""
        masks = [rasterize(s.polygons or [], (s.image.shape[0], s.image.shape[1]), self.ratio) for s in samples]
        if self.overlap:
            return torch.from_numpy(np.stack([m.index_map() for m in masks]))
        return torch.from_numpy(np.concatenate([m.dense() for m in masks]))
