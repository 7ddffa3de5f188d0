"""Polygons of a batch's samples as the masks that segmentation trains and measures with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.core.types import Sample
from utils.ops.masks import rasterize


@dataclass(frozen=True)
class MaskForm:
    """Makes `Batch.masks`.

    Attributes:
        ratio: pixels of the image per pixel of a mask, along each axis.
        overlap: an index map per image in place of a mask per object; small objects hide large ones.
    """

    ratio: int = 4
    overlap: bool = False

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """The masks of samples of one size."""
        drawn = [rasterize(s.polygons or [], (s.image.shape[0], s.image.shape[1]), self.ratio) for s in samples]
        if self.overlap:
            return torch.from_numpy(np.stack([masks.index_map() for masks in drawn]))
        return torch.from_numpy(np.concatenate([masks.dense() for masks in drawn]))
