"""Tiled inference with a mock network that finds bright spots exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from utils.core.errors import InputError
from utils.ops.masks import ObjectMasks
from utils.predict.predictor import Predictor
from utils.predict.tiling import TiledPredictor, TileOptions
from utils.tasks.options import PREDICT_DEFAULTS
from utils.tasks.registry import find_task

OPTIONS = replace(PREDICT_DEFAULTS, round_boxes=True, retina_masks=True)


class BlobFinder:
    """A mock backend: each connected bright spot is an object of class 0, its score grows with its area.

    As task `segment` with its exact mask, from a prototype per object.
    """

    stride = 32
    names = {0: "blob"}  # noqa: RUF012
    channels = 3
    device = torch.device("cpu")
    dtype = torch.float32
    has_thread_pool = False

    def __init__(self, task: str = "detect", fixed_hw: tuple[int, int] | None = None) -> None:
        self.task, self.fixed_hw = task, fixed_hw
        self.batch_sizes: list[int] = []

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Any = None) -> Any:
        self.batch_sizes.append(len(images))
        found = [self._find(image[1].numpy() > 0.7) for image in images]
        most = max(1, *(len(boxes) for boxes, _ in found))
        coefficients = most if self.task == "segment" else 0
        rows = torch.zeros(len(images), most, 6 + coefficients)
        prototypes = torch.full((len(images), most, *images.shape[2:]), -20.0)
        for number, (boxes, masks) in enumerate(found):
            for k, (x, y, w, h) in enumerate(boxes):
                score = min(0.5 + w * h / 1e5, 0.95)
                rows[number, k, :6] = torch.tensor([x + w / 2, y + h / 2, w, h, score, 1.0])
                if coefficients:
                    rows[number, k, 6 + k] = 1.0
                    prototypes[number, k][torch.from_numpy(masks[k])] = 20.0
        return (rows, prototypes) if coefficients else (rows, [])

    def _find(self, bright: np.ndarray) -> tuple[list[tuple[int, ...]], list[np.ndarray]]:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(bright.astype(np.uint8), connectivity=8)
        boxes = [tuple(stats[k, :4].tolist()) for k in range(1, count) if stats[k, 4] > 16]
        return boxes, [labels == k for k in range(1, count) if stats[k, 4] > 16]

    def warmup(self, size_hw: tuple[int, int]) -> None: ...


def draw_scene(size_hw: tuple[int, int], boxes: list[list[int]]) -> np.ndarray:
    frame = np.zeros((*size_hw, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        cv2.ellipse(
            frame, ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 2, (y2 - y1) // 2), 0, 0, 360, (255,) * 3, -1
        )
    return frame


def build(backend: Any, *, size: int = 256, overlap: float = 0.2, **details: Any) -> TiledPredictor:
    options = details.pop("options", OPTIONS)
    return TiledPredictor(backend, options, tiles=TileOptions(size, overlap, **details), size_hw=(256, 256))


def to_sorted(boxes: Tensor | None) -> list[list[float]]:
    assert boxes is not None
    return sorted(boxes[:, :4].tolist())


BOXES = [[20, 20, 60, 70], [230, 100, 300, 160], [430, 380, 620, 460], [100, 500, 900, 540], [700, 30, 710, 42]]


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.45])
@pytest.mark.parametrize("merge", ["nms", "wbf"])
def test_boxes_equal_those_of_the_whole_image(overlap: float, merge: Any) -> None:
    """At the size of the image the untiled network sees every object whole."""
    frame = draw_scene((700, 1000), BOXES)
    whole = Predictor(BlobFinder(), OPTIONS, size_hw=(1024, 1024), auto=True)
    expected = TiledPredictor(BlobFinder(), OPTIONS, tiles=TileOptions(1024), size_hw=(1024, 1024))
    (reference,), _ = whole.predict([frame])
    assert to_sorted(expected.predict([frame])[0][0].boxes) == to_sorted(reference.boxes)
    (tiled,), input_hw = build(BlobFinder(), overlap=overlap, merge=merge).predict([frame])
    assert input_hw == (256, 256)
    assert tiled.boxes is not None and len(tiled.boxes) == len(BOXES)
    difference = np.abs(np.array(to_sorted(tiled.boxes)) - np.array(sorted(BOXES)))
    assert difference.max() <= 2  # an ellipse is a pixel larger than its box


def test_tiles_go_through_the_network_in_batches() -> None:
    backend = BlobFinder()
    build(backend).predict([draw_scene((700, 1000), BOXES)])
    assert sum(backend.batch_sizes) == 4 * 5 and max(backend.batch_sizes) == 4


@pytest.mark.parametrize("size_hw", [(256, 256), (100, 200), (40, 30), (256, 100)])
def test_small_images_as_without_tiles(size_hw: tuple[int, int]) -> None:
    frame = draw_scene(size_hw, [[10, 5, 25, 30]])
    tiled, plain = build(BlobFinder()), Predictor(BlobFinder(), OPTIONS, size_hw=(256, 256))
    (a,), a_hw = tiled.predict([frame])
    (b,), b_hw = plain.predict([frame])
    assert a_hw == b_hw and a.boxes is not None and b.boxes is not None and torch.equal(a.boxes, b.boxes)


def test_empty_image() -> None:
    (prediction,), _ = build(BlobFinder("segment")).predict([np.zeros((600, 600, 3), np.uint8)])
    assert prediction.boxes is not None and prediction.boxes.shape == (0, 6)
    assert prediction.bitmaps is not None and len(prediction.bitmaps) == 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_masks_are_joined_across_seams() -> None:
    frame = draw_scene((704, 992), BOXES[:4])
    (tiled,), _ = build(BlobFinder("segment"), overlap=0.2).predict([frame])
    whole = Predictor(BlobFinder("segment"), OPTIONS, size_hw=(704, 992))
    (reference,), _ = whole.predict([frame])
    assert isinstance(tiled.bitmaps, ObjectMasks) and isinstance(reference.bitmaps, ObjectMasks)
    masks, expected = tiled.bitmaps.dense(), reference.bitmaps.dense()
    assert masks.shape == (4, 704, 992)
    for mask in expected:
        assert max(iou(mask, other) for other in masks) >= 0.99


def test_full_image_finds_what_no_tile_shows_whole() -> None:
    """A ring larger than a tile: without `full` its parts do not agree on one box."""
    frame = np.zeros((1000, 1000, 3), np.uint8)
    cv2.circle(frame, (500, 500), 420, (255,) * 3, 12)
    (tiled,), _ = build(BlobFinder(), full=True, options=replace(OPTIONS, iou_thres=0.3)).predict([frame])
    assert tiled.boxes is not None
    sides = (tiled.boxes[:, 2:4] - tiled.boxes[:, :2]).max(dim=0).values
    assert (sides > 840).all()


def test_max_det_holds_for_the_image() -> None:
    frame = draw_scene((700, 1000), BOXES)
    (tiled,), _ = build(BlobFinder(), options=replace(OPTIONS, max_det=2)).predict([frame])
    assert tiled.boxes is not None and len(tiled.boxes) == 2


def test_fixed_size_files_have_tiles_of_their_size() -> None:
    predictor = TiledPredictor(BlobFinder(fixed_hw=(128, 192)), OPTIONS, tiles=TileOptions(), size_hw=(640, 640))
    assert predictor.tile_hw == (128, 192)
    (tiled,), input_hw = predictor.predict([draw_scene((500, 500), [[100, 100, 260, 200]])])
    assert input_hw == (128, 192) and tiled.boxes is not None and len(tiled.boxes) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (TileOptions(-1), "tile -1"),
        (TileOptions(1.5), "tile 1.5"),  # type: ignore[arg-type]
        (TileOptions(True), "tile True"),
        (TileOptions(640, overlap=1.0), "tile_overlap 1.0"),
        (TileOptions(640, merge="soft"), "tile_merge 'soft'"),  # type: ignore[arg-type]
    ],
)
def test_invalid_options(options: TileOptions, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        options.check()


@pytest.mark.parametrize("task", ["classify", "semantic", "joint"])
def test_tasks_without_tiles(task: str) -> None:
    with pytest.raises(InputError, match="--tile: not supported for task"):
        find_task(task).check_tile(640)
    find_task(task).check_tile(None)
