from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils import general


@pytest.mark.parametrize(("x", "divisor", "expected"), [(33, 8, 40), (32, 8, 32), (33, torch.tensor([8, 32]), 64)])
def test_make_divisible(x: int, divisor: int | Tensor, expected: int) -> None:
    assert general.make_divisible(x, divisor) == expected


def test_former_argument_names() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20]])
    general.clip_coords(boxes, img_shape=(10, 12))
    assert boxes.tolist() == [[0, 0, 12, 10]]
    assert general.scale_coords((20, 20), coords=torch.tensor([[0.0, 0, 20, 20]]), img0_shape=(10, 10)).tolist() == [
        [0, 0, 10, 10]
    ]


# -- overlap, as in release 5.0 ---------------------------------------------------------------------------------------


def test_overlaps_against_the_reference(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/boxes.npz")
    a, b = torch.from_numpy(golden["a"]), torch.from_numpy(golden["b"])
    for name, kind in (("iou", {}), ("giou", {"GIoU": True}), ("diou", {"DIoU": True}), ("ciou", {"CIoU": True})):
        np.testing.assert_allclose(general.bbox_iou(a, b, **kind), golden[name], atol=1e-5)
    np.testing.assert_allclose(general.box_iou(a, b), golden["iou_matrix"], atol=1e-5)
    centered = [general.xyxy2xywh(boxes) for boxes in (a[0], b)]
    np.testing.assert_allclose(general.bbox_iou(*centered, x1y1x2y2=False), golden["iou_matrix"][0], atol=1e-5)


def test_wh_iou() -> None:
    ious = general.wh_iou(torch.tensor([[2.0, 4], [10, 10]]), torch.tensor([[4.0, 2], [2, 4], [5, 20]]))
    expected = [[4 / 12, 1.0, 8 / 100], [8 / 100, 8 / 100, 50 / 150]]
    np.testing.assert_allclose(ious, expected, rtol=1e-5)


# -- segments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_xyn2xy(kind: type) -> None:
    points = kind([[0.0, 0.5], [1.0, 0.25]])
    assert general.xyn2xy(points, w=200, h=100, padw=3, padh=4).tolist() == [[3, 54], [203, 29]]
    assert points.tolist() == [[0.0, 0.5], [1.0, 0.25]]


def test_segment2box() -> None:
    ring = np.array([[-5.0, 10], [20, 30], [40, 5], [90, 20], [30, 70]])
    assert general.segment2box(ring, width=64, height=48).tolist() == [20, 5, 40, 30]  # two points are inside
    assert general.segment2box(ring, width=100, height=100).tolist() == [20, 5, 90, 70]
    assert general.segment2box(np.array([[-1.0, -1], [700, 3]])).tolist() == [0, 0, 0, 0]


def test_segments2boxes() -> None:
    rings = [np.array([[0.0, 0], [4, 0], [4, 2]]), np.array([[10.0, 20], [12, 26]])]
    assert general.segments2boxes(rings).tolist() == [[2, 1, 4, 2], [11, 23, 2, 6]]
    assert general.segments2boxes([]).shape == (0, 4)


def test_resample_segments() -> None:
    square = np.array([[0, 0], [8, 0], [8, 8], [0, 8]])
    segments = [square, square + 10]
    assert general.resample_segments(segments, n=9) is segments
    expected = [[0, 0], [4, 0], [8, 0], [8, 4], [8, 8], [4, 8], [0, 8], [0, 4], [0, 0]]
    assert segments[0].tolist() == expected
    assert (segments[1] - 10).tolist() == expected
    assert segments[0].dtype == np.float32
    assert general.resample_segments([square])[0].shape == (1000, 2)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_scale_segments(kind: type) -> None:
    """64x96 letterboxed into 128x128: twice the size would be 128x192, so the gain is 4/3 and 21.33 rows are border."""
    gain, pad = 4 / 3, (128 - 64 * 4 / 3) / 2
    points = [[30.0, 20.0], [95.0, 63.0]]
    letterboxed = kind([[x * gain, y * gain + pad] for x, y in points] + [[-9.0, 200.0]])
    scaled = general.scale_segments((128, 128), letterboxed, (64, 96, 3))
    assert scaled is letterboxed
    np.testing.assert_allclose(scaled, [*points, [0, 64]], atol=1e-4)  # the last one is clipped
    shifted = general.scale_segments((64, 64), kind([[12.0, 6.0]]), (30, 30), ratio_pad=((2.0, 2.0), (2, 4)))
    assert shifted.tolist() == [[5, 1]]
    normalized = general.scale_segments((100, 100), kind([[25.0, 50.0]]), (200, 200), normalize=True)
    assert normalized.tolist() == [[0.25, 0.5]]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_clip_segments(kind: type) -> None:
    points = kind([[-3.0, 5], [50, 60]])
    general.clip_segments(points, (40, 45))
    assert points.tolist() == [[0, 5], [45, 40]]


# -- non-maximum suppression and second stage -------------------------------------------------------------------------


def test_non_max_suppression_in_the_form_of_5_0() -> None:
    rows = [
        [50.0, 50, 20, 20, 0.9, 0.1, 0.8],
        [51, 50, 20, 20, 0.8, 0.1, 0.8],  # suppressed by the first
        [90, 50, 10, 10, 0.6, 0.9, 0.2],
        [20, 20, 10, 10, 0.2, 0.9, 0.9],  # below the threshold
    ]
    prediction = torch.tensor([rows])
    (detections,) = general.non_max_suppression(prediction, 0.25, 0.45, None, False, False, ())
    np.testing.assert_allclose(detections, [[40, 40, 60, 60, 0.72, 1], [85, 45, 95, 55, 0.54, 0]], rtol=1e-6, atol=1e-6)
    (only,) = general.non_max_suppression(prediction, conf_thres=0.25, iou_thres=0.45, classes=[0], agnostic=True)
    assert only[:, 5].tolist() == [0]


def test_scale_boxes_agrees_with_the_letterbox(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/letterbox.npz")
    settings = json.loads(str(golden["meta"]))[0]
    in_hw, out_hw = golden["in0"].shape[:2], golden["out0"].shape[:2]
    (ratio, _), (pad_x, pad_y) = settings["ratio"], settings["pad"]
    corners = torch.tensor([[pad_x, pad_y, pad_x + 30 * ratio, pad_y + 20 * ratio]])
    np.testing.assert_allclose(general.scale_boxes(out_hw, corners, in_hw), [[0, 0, 30, 20]], atol=1.0)


class Brightness(nn.Module):
    """Class 1 for crops that are mostly red, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 224, 224)
        assert 0 <= x.min() <= x.max() <= 1
        red = x[:, 0].mean(dim=(1, 2)) - x[:, 2].mean(dim=(1, 2))
        return torch.stack([-red, red], dim=1)


def test_apply_classifier() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50] = (255, 0, 0)  # blue, in BGR
    image[:, 50:] = (0, 0, 255)
    detections = torch.tensor(
        [
            [20.0, 80, 60, 120, 0.9, 0],  # blue: confirmed
            [20, 20, 60, 60, 0.8, 1],  # blue: rejected
            [140, 80, 180, 120, 0.7, 1],  # red: confirmed
            [199, 199, 200, 200, 0.6, 1],  # red, in the corner
        ]
    )
    network_input = torch.zeros(2, 3, 200, 200)  # twice the image's size
    results = general.apply_classifier([detections, torch.zeros(0, 6)], Brightness(), network_input, [image, image])
    torch.testing.assert_close(results[0], detections[[0, 2, 3]])
    assert results[1].shape == (0, 6)
    (single,) = general.apply_classifier([detections], Brightness(), network_input[:1], image)
    assert len(single) == 3
