"""Inference in tiles: small objects of large images keep their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
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
from utils.tasks.base import Task
from utils.tasks.options import PostprocessOptions

TILE_BATCH = 8
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
        assert config.tile is not None and config.tile_merge in MERGE_METHODS
        return cls(config.tile, config.tile_overlap, config.tile_full, config.tile_merge)


def check_tiles_supported(tile: int | None, task: type[Task]) -> None:
    """InputError if tiles are wanted of a task that cannot merge them."""
    if tile is not None and not task.supports_tiles:
        raise InputError(f"--tile: not supported for task {task.name!r}; leave the flag out")


class TiledPredictor(Predictor):
    """A `Predictor` that cuts large images into tiles and merges what these give.

    An image that is not larger than a tile is predicted as by `Predictor`.

    Args:
        tiles: how to cut and to merge. The IoU threshold of merging is that of `options`, as is the maximum number of
            boxes, which holds for a tile and for the image.
        progress: show a progress bar for images of many tiles, on a terminal.
        backend, options, settings: as for `Predictor`; `options.original` must be set.
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
        parts, input_hw = [], self.size_hw
        hidden = get_tqdm_disable(self.progress and len(windows) >= MIN_PROGRESS_TILES)
        bar = tqdm(_read_tiles(image, windows), "tiles", len(windows), leave=False, disable=hidden, dynamic_ncols=True)
        tiles = iter(bar)
        while group := list(islice(tiles, TILE_BATCH)):
            predictions, input_hw = super().predict([tile for _, tile in group], paths=list(paths) * len(group))
            parts += [(window, p) for (window, _), p in zip(group, predictions, strict=True)]
        if self.tiles.full:
            parts.append(self._predict_whole(image, paths))
        with self.watches[2].measure():
            return self._merge(parts, size_hw), input_hw

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

    def _merge(self, parts: Sequence[tuple[np.ndarray, Prediction]], size_hw: tuple[int, int]) -> Prediction:
        """One prediction of the image from those of its windows."""
        rows, windows, masks = collect_parts(parts, size_hw)
        merged = merge_boxes(
            rows.numpy(),
            windows,
            size_hw,
            method=self.tiles.merge,
            iou_thres=self.options.iou_thres,
            agnostic=self.options.agnostic or self.options.single_cls,
        ).top(self.options.max_det)
        bitmaps = None if masks is None else merged.join_masks(masks)
        return Prediction(boxes=torch.from_numpy(merged.boxes), bitmaps=bitmaps)


def collect_parts(
    parts: Sequence[tuple[np.ndarray, Prediction]], size_hw: tuple[int, int]
) -> tuple[Tensor, np.ndarray, ObjectMasks | None]:
    """Boxes (n, 6) of all windows in pixels of the image, the window (n, 4) of each, and their masks if there are any.

    Args:
        parts: windows and their predictions, in pixels of the window.
    """
    rows, windows, corners, bitmaps, has_masks = [torch.zeros(0, 6)], [np.zeros((0, 4), np.int64)], [], [], False
    for window, prediction in parts:
        assert prediction.boxes is not None
        shift = np.tile(window[:2], 2)
        boxes = prediction.boxes.clone()
        boxes[:, :4] += torch.from_numpy(shift).to(boxes)
        rows.append(boxes)
        windows.append(np.tile(window, (len(boxes), 1)))
        if prediction.bitmaps is not None:
            has_masks = True
            corners.append(prediction.bitmaps.windows_xyxy + shift)
            bitmaps += prediction.bitmaps.bitmaps
    masks = ObjectMasks(size_hw, np.concatenate(corners), bitmaps) if has_masks else None
    return torch.cat(rows), np.concatenate(windows), masks


def _read_tiles(image: np.ndarray | LargeImage, windows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows and their pixels (h, w, C)."""
    if isinstance(image, LargeImage):
        yield from image.read_tiles(windows)
        return
    for window in windows:
        x1, y1, x2, y2 = window.tolist()
        yield window, np.ascontiguousarray(image[y1:y2, x1:x2])
