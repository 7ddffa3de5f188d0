from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils.core.types import Letterbox
from utils.ops.boxes import (
    box_area,
    box_iou,
    box_iou_matrix,
    clip_boxes_,
    scale_boxes,
    undo_letterbox,
    xywh_to_xyxy,
    xywhn_to_xyxy,
    xyxy_to_ltwh,
    xyxy_to_xywh,
    xyxy_to_xywhn,
)

KINDS = [pytest.param(np.asarray, id="numpy"), pytest.param(torch.as_tensor, id="torch")]
BOX = np.array([[10.0, 20.0, 30.0, 60.0]], np.float32)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    return np.load(shared / "reference/golden/boxes.npz")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("convert", "back", "expected"),
    [
        pytest.param(xyxy_to_xywh, xywh_to_xyxy, [20, 40, 20, 40], id="xywh"),
        pytest.param(xyxy_to_ltwh, None, [10, 20, 20, 40], id="ltwh"),
        pytest.param(
            lambda b: xyxy_to_xywhn(b, (80, 40)), lambda b: xywhn_to_xyxy(b, (80, 40)), [0.5, 0.5, 0.5, 0.5], id="xywhn"
        ),
    ],
)
def test_conversion_and_back(kind: Any, convert: Any, back: Any, expected: list[float]) -> None:
    boxes = kind(BOX)
    converted = convert(boxes)
    assert type(converted) is type(boxes)
    np.testing.assert_allclose(converted, [expected])
    if back is not None:
        np.testing.assert_allclose(back(converted), BOX)
    assert convert(boxes[:0]).shape == (0, 4)


def test_offset_places_an_image_inside_a_frame() -> None:
    boxes = xywhn_to_xyxy(np.array([[0.5, 0.5, 1.0, 1.0]]), (50, 100), offset_wh=(7, 3))
    np.testing.assert_allclose(boxes, [[7, 3, 107, 53]])


@pytest.mark.parametrize(
    ("a", "b", "kind", "expected"),
    [
        pytest.param([0, 0, 2, 2], [1, 1, 3, 3], "iou", 1 / 7, id="iou"),
        pytest.param([0, 0, 2, 2], [1, 1, 3, 3], "giou", 1 / 7 - 2 / 9, id="giou"),  # enclosing box 9, union 7
        pytest.param([0, 0, 2, 2], [1, 1, 3, 3], "diou", 1 / 7 - 2 / 18, id="diou"),  # centers 2 apart, diagonal 18
        pytest.param([0, 0, 2, 2], [1, 1, 3, 3], "ciou", 1 / 7 - 2 / 18, id="ciou-same-shape"),
        pytest.param([0, 0, 1, 1], [2, 0, 3, 1], "giou", -1 / 3, id="giou-apart"),
        pytest.param([1, 1, 1, 1], [1, 1, 1, 1], "iou", 0.0, id="empty-boxes"),
    ],
)
def test_iou_of_known_pairs(a: list[float], b: list[float], kind: Any, expected: float) -> None:
    iou = box_iou(torch.tensor([a]).float(), torch.tensor([b]).float(), kind)
    assert iou.tolist() == pytest.approx([expected], abs=1e-5)


def test_ciou_penalizes_a_different_shape_and_has_gradients() -> None:
    a = torch.tensor([[0.0, 0.0, 4.0, 1.0]], requires_grad=True)
    b = torch.tensor([[1.5, -1.5, 2.5, 2.5]])  # same center, width and height swapped
    v = (4 / np.pi**2) * (np.arctan(1 / 4) - np.arctan(4)) ** 2
    expected = 1 / 7 - v * v / (1 - 1 / 7 + v)
    ciou = box_iou(a, b, "ciou")
    assert ciou.item() == pytest.approx(expected, abs=1e-5)
    ciou.sum().backward()
    assert a.grad is not None and a.grad.isfinite().all() and (a.grad != 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_iou_matrix(kind: Any) -> None:
    a, b = kind(np.array([[0.0, 0, 2, 2], [5, 5, 6, 6]])), kind(np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [8, 8, 9, 9]]))
    np.testing.assert_allclose(box_iou_matrix(a, b), [[1 / 7, 1, 0], [0, 0, 0]], atol=1e-6)
    assert box_iou_matrix(a[:0], b).shape == (0, 3)
    np.testing.assert_allclose(box_area(a), [4, 1])


def test_against_the_original(golden: Any) -> None:
    a, b = torch.tensor(golden["a"]), torch.tensor(golden["b"])
    for kind in ("iou", "giou", "diou", "ciou"):
        torch.testing.assert_close(box_iou(a, b, kind), torch.tensor(golden[kind]), rtol=0, atol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(box_iou_matrix(golden["a"], golden["b"]), golden["iou_matrix"], atol=1e-6)
    np.testing.assert_allclose(xyxy_to_xywh(golden["a"]), golden["a_xywh"], rtol=1e-6)
    np.testing.assert_allclose(xyxy_to_xywhn(golden["a"], (480, 640)), golden["a_xywhn_640x480"], rtol=1e-6)
    scaled = scale_boxes(golden["a"], (384, 640), (720, 1280))
    np.testing.assert_allclose(scaled, golden["a_scaled_384x640_to_720x1280"], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_clip_is_in_place_and_keeps_further_columns(kind: Any) -> None:
    boxes = kind(np.array([[-5.0, -6.0, 50.0, 70.0, 0.9, 300.0]]))
    assert clip_boxes_(boxes, (60, 40)) is boxes
    np.testing.assert_allclose(boxes, [[0, 0, 40, 60, 0.9, 300]])


@pytest.mark.parametrize("kind", KINDS)
def test_undo_letterbox_maps_back_and_copies(kind: Any) -> None:
    letterbox = Letterbox(original_hw=(100, 200), ratio_wh=(2.0, 4.0), pad_wh=(10, 20))
    boxes = kind(np.array([[30.0, 60.0, 50.0, 100.0, 0.5, 1.0], [0.0, 0.0, 900.0, 900.0, 0.4, 2.0]]))
    before = np.array(boxes.tolist())
    back = undo_letterbox(boxes, letterbox)
    np.testing.assert_allclose(back, [[10, 10, 20, 20, 0.5, 1], [0, 0, 200, 100, 0.4, 2]])
    np.testing.assert_array_equal(boxes, before)
    assert undo_letterbox(boxes[:0], letterbox).shape == (0, 6)


def test_scale_boxes_with_given_fit() -> None:
    boxes = scale_boxes(np.array([[12.0, 14.0, 22.0, 34.0]]), (64, 64), (30, 30), ratio_pad=((2.0, 2.0), (2.0, 4.0)))
    np.testing.assert_allclose(boxes, [[5, 5, 10, 15]])
