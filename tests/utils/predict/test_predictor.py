"""Predictor: letterbox, inference, post-processing, with a mock network and the official checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.imaging.read import read_image
from utils.predict.predictor import Predictor
from utils.tasks.options import PREDICT_DEFAULTS

GREEN = (0, 255, 0)


class SpotFinder:
    """A backend that reports the bounding box of all pure green pixels of each image as class 1, score 0.81."""

    task = "detect"
    stride = 32
    names = {0: "nothing", 1: "spot"}  # noqa: RUF012
    channels = 3
    device = torch.device("cpu")
    dtype = torch.float32
    has_thread_pool = False

    def __init__(self, fixed_hw: tuple[int, int] | None = None) -> None:
        self.fixed_hw = fixed_hw
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Any = None) -> Any:
        self.seen.append(images)
        rows = torch.zeros(len(images), 1, 7)
        for row, image in zip(rows, images, strict=True):
            ys, xs = ((image[1] > 0.99) & (image[0] < 0.01)).nonzero(as_tuple=True)
            if len(xs):
                x1, y1, x2, y2 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
                row[0] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, 0.0, 0.9])
        return rows, []

    def warmup(self, size_hw: tuple[int, int]) -> None: ...


def scene(size_hw: tuple[int, int], box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    frame = np.zeros((*size_hw, 3), np.uint8)
    x1, y1, x2, y2 = box_xyxy
    frame[y1:y2, x1:x2] = GREEN
    return frame


@pytest.mark.parametrize(
    ("size_hw", "wanted_hw", "input_hw"),
    [
        pytest.param((320, 640), (640, 640), (320, 640), id="wide"),
        pytest.param((640, 300), (640, 640), (640, 320), id="tall-padded"),
        pytest.param((160, 320), (640, 640), (320, 640), id="enlarged"),
        pytest.param((640, 640), (320, 640), (320, 320), id="two-sides"),
    ],
)
def test_boxes_come_back_in_pixels_of_the_image(
    size_hw: tuple[int, int], wanted_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    box = (64, 32, 160, 128)
    predictor = Predictor(SpotFinder(), replace(PREDICT_DEFAULTS, round_boxes=True), size_hw=wanted_hw)
    (prediction,), seen_hw = predictor.predict([scene(size_hw, box)])
    assert seen_hw == input_hw
    assert prediction.boxes is not None
    assert prediction.boxes[:, :4].tolist() == [list(box)]
    assert prediction.boxes[0, 4:].tolist() == pytest.approx([0.81, 1])


def test_a_backend_of_one_size_gets_that_size() -> None:
    backend = SpotFinder(fixed_hw=(256, 320))
    predictor = Predictor(backend, replace(PREDICT_DEFAULTS, round_boxes=True))
    (prediction,), seen_hw = predictor.predict([scene((256, 256), (64, 32, 160, 128))])
    assert seen_hw == (256, 320)
    assert prediction.boxes is not None
    assert prediction.boxes[0, :4].tolist() == [64, 32, 160, 128]
    assert backend.seen[0].shape == (1, 3, 256, 320)
    assert backend.seen[0][0, :, 0, 0].tolist() == pytest.approx([114 / 255] * 3)  # border


def test_several_images_go_through_at_once_and_an_empty_one_gives_no_rows() -> None:
    predictor = Predictor(SpotFinder(), PREDICT_DEFAULTS)
    frames = [scene((64, 64), (8, 8, 24, 32)), np.zeros((64, 64, 3), np.uint8)]
    predictions, seen_hw = predictor.predict(frames)
    assert seen_hw == (640, 640)
    assert [None if p.boxes is None else len(p.boxes) for p in predictions] == [1, 0]


def test_the_network_sees_rgb_in_unit_range_channels_last() -> None:
    backend = SpotFinder()
    frame = np.zeros((640, 640, 3), np.uint8)
    frame[..., 2] = 255  # red in BGR
    Predictor(backend, PREDICT_DEFAULTS).predict([frame])
    (images,) = backend.seen
    assert images[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_class_filter_and_threshold() -> None:
    frame = scene((640, 640), (64, 32, 160, 128))
    for settings, count in (({"classes": [0]}, 0), ({"classes": [1]}, 1), ({"conf_thres": 0.82}, 0)):
        (prediction,), _ = Predictor(SpotFinder(), replace(PREDICT_DEFAULTS, **settings)).predict([frame])
        assert prediction.boxes is not None
        assert len(prediction.boxes) == count


def test_times_are_recorded_per_stage() -> None:
    predictor = Predictor(SpotFinder(), PREDICT_DEFAULTS)
    predictor.predict([scene((640, 640), (64, 32, 160, 128))])
    assert all(watch.seconds > 0 for watch in predictor.watches)


@pytest.fixture(scope="module")
def official(shared: Path) -> Any:
    from utils.backends.registry import load_backend

    return load_backend(shared / "weights" / "yolov5n.pt", device=torch.device("cpu"))


@pytest.mark.parametrize("image", ["bus", "zidane"])
@pytest.mark.parametrize(
    ("kind", "settings", "augment"),
    [
        pytest.param("detect", {"round_boxes": True}, False, id="detect"),
        pytest.param("agnostic", {"conf_thres": 0.1, "agnostic": True}, False, id="agnostic"),
        pytest.param("tta", {}, True, id="tta"),
    ],
)
def test_official_checkpoint_gives_the_reference_boxes(
    shared: Path, official: Any, image: str, kind: str, settings: dict[str, Any], augment: bool
) -> None:
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    frame = read_image(shared / "data" / "images" / f"{image}.jpg")
    predictor = Predictor(official, replace(PREDICT_DEFAULTS, **settings), augment=augment)
    (prediction,), input_hw = predictor.predict([frame])
    assert prediction.boxes is not None
    expected = golden[f"{image}_nms_{kind}"]
    assert input_hw == tuple(golden[f"{image}_input_shape"][2:])
    assert prediction.boxes[:, 5].tolist() == expected[:, 5].tolist()
    np.testing.assert_allclose(prediction.boxes[:, :4], expected[:, :4], atol=1e-4 * max(frame.shape), rtol=0)
    np.testing.assert_allclose(prediction.boxes[:, 4], expected[:, 4], atol=1e-4, rtol=0)
