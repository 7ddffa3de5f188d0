"""Inference in tiles: small objects of large images keep their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from utils.backends.base import Backend, Visitor
from utils.config.detect import DetectConfig
from utils.config.val import ValConfig
from utils.core.errors import InputError
from utils.core.logging import get_tqdm_disable
from utils.core.types import Prediction
from utils.imaging.large_image import LargeImage
from utils.ops.masks import ObjectMasks
from utils.ops.tiles import MERGE_METHODS, MergeMethod, compute_windows, merge_boxes
from utils.predict.predictor import Predictor
from utils.tasks.options import PostprocessOptions

TILE_BATCH = 4
MIN_PROGRESS_TILES = 64  # an image of fewer tiles has no progress bar


@dataclass(frozen=True)
class TileOptions:
    """How images are cut into tiles.

    Attributes:
        size: side of a tile in pixels of the image; 0 for the size of the network input.
        overlap: share of a tile that the next one repeats.
        full: also predict the whole image, shrunk to the network input.
        merge: as in `merge_boxes`.
    """

    size: int = 0
    overlap: float = 0.2
    full: bool = False
    merge: MergeMethod = "nms"

    @classmethod
    def from_config(cls, config: DetectConfig | ValConfig) -> TileOptions:
        """As the flags of a command that has `--tile`."""
        assert config.tile is not None
        merge: Any = config.tile_merge
        return cls(config.tile, config.tile_overlap, config.tile_full, merge).check()

    def check(self) -> TileOptions:
        """The options; InputError if one is invalid."""
        if not isinstance(self.size, Integral) or isinstance(self.size, bool) or self.size < 0:
            raise InputError(f"tile {self.size!r}: expected the side of a tile in pixels, or 0 for the network input's")
        if not 0 <= self.overlap < 1:
            raise InputError(f"tile_overlap {self.overlap!r}: must be at least 0 and below 1")
        if self.merge not in MERGE_METHODS:
            raise InputError(f"tile_merge {self.merge!r}: must be one of {', '.join(MERGE_METHODS)}")
        return self


class TiledPredictor(Predictor):
    """A `Predictor` that cuts large images into tiles and merges what these give.

    An image that is not larger than a tile is predicted as by `Predictor`.

    Args:
        tiles: how to cut and to merge. The IoU threshold of merging is that of `options`, as is the maximum number of
            boxes, which holds for a tile and for the image.
        progress: show a progress bar for images of many tiles, on a terminal.
        backend, options, settings: as for `Predictor`; `options.original` must be set.

    Attributes:
        num_tiled: images so far that were larger than a tile.
    """

    def __init__(
        self,
        backend: Backend,
        options: PostprocessOptions,
        *,
        tiles: TileOptions,
        progress: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(backend, replace(options, round_boxes=False), **settings)
        self.options, self.tiles, self.progress = options, tiles, progress
        self.tile_hw = (tiles.size, tiles.size) if tiles.size else self.size_hw
        self.num_tiled = 0

    @torch.inference_mode()
    def predict(
        self,
        frames: Sequence[np.ndarray | LargeImage],
        *,
        paths: Sequence[str] = (),
        visualize: Visitor | None = None,
    ) -> tuple[list[Prediction], tuple[int, int]]:
        """Predictions in pixels of the images, and the size of the network input of the last tile.

        Args:
            frames: as for `Predictor`; of any sizes.

        Raises:
            ImageError: a large image is damaged.
        """
        input_hw = self.size_hw
        predictions = []
        for number, frame in enumerate(frames):
            prediction, input_hw = self._predict_image(frame, list(paths[number : number + 1]))
            if self.options.round_boxes and prediction.boxes is not None:
                prediction.boxes[:, :4] = prediction.boxes[:, :4].round()
            predictions.append(prediction)
        return predictions, input_hw

    def _predict_image(
        self, image: np.ndarray | LargeImage, paths: Sequence[str]
    ) -> tuple[Prediction, tuple[int, int]]:
        """One image: its tiles in batches, then merged."""
        size_hw = (image.shape[0], image.shape[1])
        windows = compute_windows(size_hw, self.tile_hw, self.tiles.overlap)
        if len(windows) == 1 and isinstance(image, np.ndarray):
            predictions, input_hw = super().predict([image], paths=paths)
            return predictions[0], input_hw
        self.num_tiled += 1
        parts, input_hw = Parts(size_hw), self.size_hw
        hidden = get_tqdm_disable(self.progress and len(windows) >= MIN_PROGRESS_TILES)
        bar = tqdm(_read_tiles(image, windows), "tiles", len(windows), leave=False, disable=hidden, dynamic_ncols=True)
        tiles = iter(bar)
        while group := list(islice(tiles, TILE_BATCH)):
            predictions, input_hw = super().predict([tile for _, tile in group], paths=list(paths) * len(group))
            for (window, _), prediction in zip(group, predictions, strict=True):
                parts.add(window, prediction)
        if self.tiles.full:
            parts.add(*self._predict_whole(image, paths))
        with self.watches[2].measure():
            return self._merge(parts), input_hw

    def _predict_whole(self, image: np.ndarray | LargeImage, paths: Sequence[str]) -> tuple[np.ndarray, Prediction]:
        """The whole image as one more tile."""
        height, width = image.shape[:2]
        window = np.array([0, 0, width, height])
        frame = image if isinstance(image, np.ndarray) else image.overview
        prediction = super().predict([frame], paths=paths)[0][0]
        if frame.shape[:2] != (height, width) and prediction.boxes is not None:
            prediction.boxes[:, :4] *= prediction.boxes.new_tensor(
                (width / frame.shape[1], height / frame.shape[0]) * 2
            )
            if prediction.bitmaps is not None:
                prediction.bitmaps = prediction.bitmaps.resize((height, width))
        return window, prediction

    def _merge(self, parts: Parts) -> Prediction:
        """One prediction of the image from those of its windows."""
        merged = merge_boxes(
            parts.boxes,
            parts.windows,
            parts.size_hw,
            method=self.tiles.merge,
            iou_thres=self.options.iou_thres,
            agnostic=self.options.agnostic or self.options.single_cls,
            max_det=self.options.max_det,
        )
        bitmaps = None if parts.masks is None else merged.join_masks(parts.masks)
        return Prediction(boxes=torch.from_numpy(merged.boxes), bitmaps=bitmaps)


class Parts:
    """What the windows of an image gave, in pixels of the image.

    Boxes are kept as Python numbers: thousands of small tensors between large ones would fragment the memory.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.size_hw = size_hw
        self._rows: list[list[float]] = []
        self._windows: list[tuple[int, ...]] = []
        self._corners: list[np.ndarray] = []
        self._bitmaps: list[np.ndarray] | None = None

    def add(self, window: np.ndarray, prediction: Prediction) -> None:
        """Add the prediction of a window (4,), in pixels of the window."""
        assert prediction.boxes is not None
        x, y = window[:2].tolist()
        rows = prediction.boxes.tolist()
        self._rows += [[x1 + x, y1 + y, x2 + x, y2 + y, *rest] for x1, y1, x2, y2, *rest in rows]
        self._windows += [tuple(window.tolist())] * len(rows)
        if prediction.bitmaps is not None:
            self._corners.append(prediction.bitmaps.windows_xyxy + np.tile(window[:2], 2))
            self._bitmaps = (self._bitmaps or []) + prediction.bitmaps.bitmaps

    @property
    def boxes(self) -> np.ndarray:
        """(n, 6) float32 x1, y1, x2, y2, score, class."""
        return np.array(self._rows, np.float32).reshape(-1, 6)

    @property
    def windows(self) -> np.ndarray:
        """(n, 4) int64 window of each box."""
        return np.array(self._windows, np.int64).reshape(-1, 4)

    @property
    def masks(self) -> ObjectMasks | None:
        """Masks of the n boxes, or None."""
        if self._bitmaps is None:
            return None
        return ObjectMasks(self.size_hw, np.concatenate(self._corners), self._bitmaps)


def _read_tiles(image: np.ndarray | LargeImage, windows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows and their pixels (h, w, C)."""
    if isinstance(image, LargeImage):
        yield from image.read_tiles(windows)
        return
    for window in windows:
        x1, y1, x2, y2 = window.tolist()
        yield window, np.ascontiguousarray(image[y1:y2, x1:x2])
