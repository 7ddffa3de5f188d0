"""The comparison of two runtimes: what may differ by chance passes, what is wrong does not."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from utils.export.matching import (
    Figures,
    Thresholds,
    Tolerance,
    compare_detections,
    compare_raw,
    compare_scores,
)
from utils.ops.nms import non_max_suppression

STRICT = Tolerance(pixels=1.0, score=0.01, relative=1e-3, iou=0.02, tie=1e-3)
LIMITS = Thresholds()


def scene(*boxes: tuple[float, float, float, float, float, int]) -> Tensor:
    """(1, N, 8) decoded rows of three classes, from x, y, w, h, score, class."""
    rows = torch.zeros(1, len(boxes), 8)
    for row, (x, y, w, h, score, label) in zip(rows[0], boxes, strict=True):
        row[:5] = torch.tensor([x, y, w, h, 1.0])
        row[5 + label] = score
    return rows


APART = scene((50, 50, 40, 40, 0.9, 0), (200, 60, 30, 50, 0.6, 1), (120, 300, 80, 20, 0.4, 2))


def test_equal_rows_agree() -> None:
    figures = compare_detections(APART, APART.clone(), LIMITS, STRICT)
    assert (figures.compared, figures.pixels, figures.score, figures.problems) == (3, 0, 0, [])


def test_small_differences_are_reported_and_pass() -> None:
    other = APART.clone()
    other[0, 0, 0] += 0.5
    other[0, 1, 6] += 0.005
    figures = compare_detections(APART, other, LIMITS, STRICT)
    assert figures.problems == []
    assert figures.pixels == pytest.approx(0.5)
    assert figures.score == pytest.approx(0.005, abs=1e-6)
    assert figures.text() == "at most 0.5 px and 0.005 of score (3 detections)"


def shifted(rows: Tensor) -> None:
    rows[0, 2, 1] += 1.5


def weaker(rows: Tensor) -> None:
    rows[0, 1, 6] -= 0.02


def renamed(rows: Tensor) -> None:
    rows[0, 1, 5:] = rows[0, 1, 5:].roll(1)


def lost(rows: Tensor) -> None:
    rows[0, 0, 4] = 0


def invented(rows: Tensor) -> None:
    rows[0, 2] = torch.tensor([400.0, 40.0, 30.0, 30.0, 1.0, 0.0, 0.0, 0.8])


def broken(rows: Tensor) -> None:
    rows[0, 0, 4:] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shifted, r"class 2 is off by 1\.5 px and 0 of score, allowed are 1 px and 0\.01"),
        (weaker, r"class 1 is off by 0 px and 0\.02 of score"),
        (renamed, r"PyTorch's detection of class 1, score 0\.60, at 185, 35, 215, 85 is missing"),
        (lost, "PyTorch's detection of class 0.* is missing"),
        (invented, r"a detection of class 2, score 0\.80, at 385, 25, 415, 55 is none of PyTorch's"),
        (broken, "class 0.* is missing"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Tensor], None], message: str) -> None:
    other = APART.clone()
    change(other)
    problems = compare_detections(APART, other, LIMITS, STRICT).problems
    assert any(re.search(message, line) for line in problems), problems


def test_a_score_beside_the_threshold_may_fall_on_either_side() -> None:
    above, below = scene((50, 50, 40, 40, 0.256, 0)), scene((50, 50, 40, 40, 0.248, 0))
    assert compare_detections(above, below, LIMITS, STRICT).problems == []
    assert compare_detections(below, above, LIMITS, STRICT).problems == []
    assert compare_detections(scene((50, 50, 40, 40, 0.28, 0)), below, LIMITS, STRICT).problems


def test_an_overlap_beside_the_threshold_may_suppress_or_not() -> None:
    first, second = (100.0, 100.0, 100.0, 100.0, 0.9, 0), (100.0, 137.9, 100.0, 100.0, 0.8, 0)  # IoU 0.4503
    apart = (100.0, 138.3, 100.0, 100.0, 0.8, 0)  # IoU 0.446
    assert len(non_max_suppression(scene(first, second))[0]) == 1
    assert len(non_max_suppression(scene(first, apart))[0]) == 2
    assert compare_detections(scene(first, second), scene(first, apart), LIMITS, STRICT).problems == []
    assert compare_detections(scene(first, apart), scene(first, second), LIMITS, STRICT).problems == []


def test_nearly_equal_classes_may_change_places() -> None:
    one, other = scene((50, 50, 40, 40, 0.8, 0)), scene((50, 50, 40, 40, 0.8, 0))
    one[0, 0, 6], other[0, 0, 6] = 0.7995, 0.8005
    assert compare_detections(one, other, LIMITS, STRICT).problems == []
    other[0, 0, 5] = 0.1
    assert compare_detections(scene((50, 50, 40, 40, 0.8, 0)), other, LIMITS, STRICT).problems


def test_of_two_equally_good_boxes_either_may_win() -> None:
    boxes = ((50.0, 50.0, 40.0, 40.0), (58.0, 50.0, 40.0, 40.0))
    one, other = (scene((*boxes[0], 0.8, 0), (*boxes[1], 0.8 + shift, 0)) for shift in (-0.0002, 0.0002))
    assert compare_detections(one, other, LIMITS, STRICT).problems == []
    other = scene((*boxes[0], 0.8, 0), (*boxes[1], 0.805, 0))
    assert compare_detections(scene((*boxes[0], 0.805, 0), (*boxes[1], 0.8, 0)), other, LIMITS, STRICT).problems


def test_missing_suppression_is_noticed() -> None:
    crowd = scene(*((50 + i, 50, 40, 40, 0.9 - i / 50, 0) for i in range(5)))
    assert compare_detections(crowd, [crowd_rows(crowd)], LIMITS, STRICT).problems
    assert not compare_detections(crowd, non_max_suppression(crowd), LIMITS, STRICT).problems


def crowd_rows(rows: Tensor) -> Tensor:
    """Every candidate as a detection."""
    return non_max_suppression(rows, iou_thres=1.0)[0]


def test_repeated_detections_are_noticed() -> None:
    found = non_max_suppression(APART)[0]
    assert compare_detections(APART, [found[[0, 0, 1, 2]]], LIMITS, STRICT).problems


def test_no_detections_are_compared_row_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    quiet = torch.rand(2, 300, 8, generator=generator) * torch.tensor([300, 300, 50, 50, 0.1, 0.1, 0.1, 0.1])
    assert compare_detections(quiet, quiet, LIMITS, STRICT).compared == 0
    assert compare_raw(quiet, quiet * 1.0001, STRICT).problems == []
    other = quiet.clone()
    other[..., 5:] *= 1.05  # far below 0.01 of score, and still another network
    (problem,) = compare_raw(quiet, other, STRICT).problems
    assert "of their mean size, allowed are 1 px, 0.01 and 0.001" in problem
    moved = quiet.clone()
    moved[1, quiet[1, :, 4:].prod(1).argmax(), 0] += 400
    assert compare_raw(quiet, moved, STRICT).problems
    assert compare_raw(quiet, quiet * torch.nan, STRICT).problems


def test_scores_of_a_classifier() -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0]])
    assert compare_scores(logits, logits + 1e-5, STRICT).problems == []
    assert "probabilities are off by" in compare_scores(logits, logits.flip(1), STRICT).problems[0]
    assert compare_scores(logits, logits * torch.nan, STRICT).problems


def test_figures_add_up() -> None:
    total = Figures(2, 0.1, 0.2) + Figures(1, 0.3, 0.1, 0.5, ["x"])
    assert total == Figures(3, 0.3, 0.2, 0.5, ["x"])
    assert Figures().text() == "nothing, and nothing is detected on the images"
    assert Figures(problems=["x"]).text() == "no detection found by both"
