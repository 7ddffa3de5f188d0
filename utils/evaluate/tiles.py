"""Validation in tiles: `val.py --tile`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from utils.backends.base import Backend
from utils.config.val import ValConfig
from utils.core.device import Stopwatch
from utils.core.types import Batch, Prediction
from utils.predict.tiling import TiledPredictor, TileOptions
from utils.tasks.options import PostprocessOptions


class TiledBatchPredictor:
    """Predicts batches of images in their own size, tile by tile (a `BatchPredictor`).

    Args:
        postprocess: of validation.
        imgsz: image size of the tiles, pixels.
    """

    def __init__(self, backend: Backend, config: ValConfig, postprocess: PostprocessOptions, imgsz: int) -> None:
        self.predictor = TiledPredictor(
            backend,
            replace(postprocess, original=True, retina_masks=True),
            tiles=TileOptions.from_config(config),
            size_hw=(imgsz, imgsz),
            augment=config.augment,
            rgb=True,
        )

    @property
    def watches(self) -> Sequence[Stopwatch]:
        return self.predictor.watches

    def __call__(self, batch: Batch) -> list[Prediction]:
        """Predictions in pixels of the images, masks included."""
        frames = list(np.ascontiguousarray(batch.images.permute(0, 2, 3, 1).numpy()))
        predictions, _ = self.predictor.predict(frames, paths=batch.paths)
        return [replace(prediction, masks=prediction.bitmaps) for prediction in predictions]
