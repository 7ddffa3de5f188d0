"""Agreement of detections: rounding errors pass, other detections do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from utils.metrics.agreement import Agreement, Tolerance, compare_detections

TOLERANCE = Tolerance(relative=1e-4, agreeing=1.0, pixels=1.0, score=0.01)
CONF = 0.25
THREE = torch.tensor(  # x1, y1, x2, y2, score, class
    [[30.0, 30, 70, 70, 0.9, 0], [185, 35, 215, 85, 0.6, 1], [80, 290, 160, 310, 0.4, 2]]
)


def compare(reference: Tensor, detections: Tensor, **options: Any) -> Agreement:
    return compare_detections(reference, detections, TOLERANCE, conf_thres=CONF, **options)


def test_equal_detections_agree_in_any_order() -> None:
    assert compare(THREE, THREE[[2, 0, 1]]) == Agreement(3, 3)


def test_small_differences_agree() -> None:
    other = THREE.clone()
    other[0, 0] += 0.5
    other[1, 4] += 0.005
    assert compare(THREE, other) == Agreement(3, 3)


def shift(rows: Tensor) -> Tensor:
    rows[2, 1] += 1.5
    return rows


def lower_score(rows: Tensor) -> Tensor:
    rows[1, 4] -= 0.02
    return rows


def change_class(rows: Tensor) -> Tensor:
    rows[1, 5] = 2
    return rows


def remove(rows: Tensor) -> Tensor:
    return rows[1:]


def break_box(rows: Tensor) -> Tensor:
    rows[0, :4] = torch.nan
    return rows


@pytest.mark.parametrize("change", [shift, lower_score, change_class, remove, break_box])
def test_other_detections_disagree(change: Callable[[Tensor], Tensor]) -> None:
    assert compare(THREE, change(THREE.clone())) == Agreement(2, 3)
    assert compare(change(THREE.clone()), THREE) == Agreement(2, 3)


def test_additional_detections_disagree() -> None:
    assert compare(THREE[:2], THREE) == Agreement(2, 3)
    assert compare(THREE, THREE[[0, 0, 1, 2]]) == Agreement(3, 4), "a detection has one partner"
    crowd = THREE[[0] * 5] + torch.arange(5)[:, None] * torch.tensor([1, 0, 1, 0, -0.02, 0])  # no NMS
    assert compare(crowd[:1], crowd) == Agreement(1, 5)


def test_small_boxes_must_overlap() -> None:
    tiny = torch.tensor([[10.0, 10, 14, 14, 0.9, 0]])
    assert compare(tiny, tiny + torch.tensor([0.9, 0, 0.9, 0, 0, 0])) == Agreement(0, 1)


def test_scores_near_the_threshold_may_be_on_either_side() -> None:
    reference, none = THREE[:1].clone(), THREE[:0]
    for score, agreement in ((0.256, Agreement()), (0.28, Agreement(0, 1))):
        reference[0, 4] = score
        assert compare(reference, none) == compare(none, reference) == agreement
    assert compare(none, none) == Agreement()


def test_masks_must_overlap_too() -> None:
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[:2] = True
    other = masks.clone()
    other[0, 0, :2] = False  # IoU 0.9
    other[2, 0, 0] = True  # one pixel
    assert compare(THREE, THREE, masks=(masks, other)) == Agreement(3, 3)
    other[1, 0, :3] = False
    assert compare(THREE, THREE, masks=(masks, other)) == Agreement(2, 3)


def test_agreements_add_up() -> None:
    assert Agreement(2, 3) + Agreement.count(torch.tensor([True, False])) == Agreement(3, 5)
