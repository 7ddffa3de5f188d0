from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from utils.metrics.ap import SCORE_GRID, average_precision, match_iou_matrix
from utils.ops.boxes import box_iou_matrix

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def match_detections(detections: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return match_iou_matrix(box_iou_matrix(detections[:, :4], labels[:, 1:5]), detections, labels, thresholds)


def test_match_equals_the_original(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/match.npz")
    for i in range(4):
        detections, labels = golden[f"detections{i}"], golden[f"labels{i}"]
        correct = match_detections(detections, labels, golden["iou_thresholds"])
        np.testing.assert_array_equal(correct, golden[f"correct{i}"])
        shuffled = np.random.default_rng(i).permutation(len(detections))
        correct = match_detections(detections[shuffled], labels, golden["iou_thresholds"])
        np.testing.assert_array_equal(correct, golden[f"correct{i}"][shuffled])


def test_detections_match_only_the_label_of_highest_iou() -> None:
    """Both detections have the highest IoU with label 0; the weaker one is not matched with label 1."""
    labels = np.array([[0, 0, 0, 10, 10], [0, 3, 0, 13, 10.0]])
    detections = np.array([[0, 0, 10, 10, 0.9, 0], [1, 0, 11, 10, 0.8, 0.0]])  # IoU of the second: 9/11 and 8/12
    assert match_detections(detections, labels, np.array([0.5])).ravel().tolist() == [True, False]


def test_match_by_score_not_iou_at_each_threshold() -> None:
    labels = np.array([[1, 0, 0, 10, 10.0]])
    detections = np.array([[0, 0, 10, 8, 0.9, 1], [0, 0, 10, 10, 0.5, 1], [0, 0, 10, 10, 0.99, 0.0]])
    correct = match_detections(detections, labels, np.array([0.5, 0.75, 0.85]))
    assert correct.tolist() == [[True, True, False], [False, False, True], [False, False, False]]


@pytest.mark.parametrize(("preds", "labels"), [(0, 2), (2, 0), (0, 0)])
def test_match_without_detections_or_labels(preds: int, labels: int) -> None:
    correct = match_detections(np.ones((preds, 6)), np.ones((labels, 5)), THRESHOLDS)
    assert correct.shape == (preds, 10) and not correct.any()


def test_average_precision_equals_the_original(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/ap.npz")
    result = average_precision(golden["tp"], golden["conf"], golden["pred_cls"], golden["target_cls"])
    for name in ("p", "r", "f1", "ap", "classes"):
        np.testing.assert_allclose(getattr(result, name), golden[name], atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(result.tp, golden["out_tp"])
    np.testing.assert_array_equal(result.fp, golden["out_fp"])
    assert result.r.max() > 1  # more matches than labels: not clipped


def test_average_precision_by_hand() -> None:
    """Correct, wrong, correct, two labels: precision 1, 1/2, 2/3; envelope 1 up to recall 1/2, then 2/3."""
    tp = np.array([[True], [False], [True]])
    result = average_precision(tp, np.array([0.9, 0.8, 0.7]), np.zeros(3), np.zeros(2))
    upper = 0.49 * 1 + 0.01 * (1 + 2 / 3) / 2  # up to recall 0.49, then the step down to the sample at 0.50
    lower = 0.49 * 2 / 3 + 0.01 * (2 / 3) / 2  # up to recall 0.99, then the step to 0 at recall 1
    assert result.ap50[0] == pytest.approx(upper + lower, abs=1e-9)
    assert (result.p[0], result.r[0]) == pytest.approx((2 / 3, 1.0), abs=1e-3)  # F1 0.8 beats 2/3 of the first alone
    assert result.score <= 0.7


def test_order_of_detections_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    tp, conf, preds, labels = rng.random((60, 10)) < 0.5, rng.random(60), rng.integers(0, 4, 60), rng.integers(0, 3, 30)
    order = rng.permutation(60)
    plain, shuffled = (
        average_precision(tp, conf, preds, labels),
        average_precision(tp[order], conf[order], preds[order], labels),
    )
    np.testing.assert_array_equal(plain.ap, shuffled.ap)
    assert plain.classes.tolist() == [0, 1, 2]  # class 3 has no labels


def test_no_detections_and_no_labels() -> None:
    result = average_precision(np.zeros((0, 10), bool), np.zeros(0), np.zeros(0), np.array([5, 2, 5]))
    assert result.classes.tolist() == [2, 5] and not result.ap.any() and not result.p.any()
    assert result.curves.precision_over_recall.shape == (2, 1000)
    result = average_precision(np.ones((2, 10), bool), np.ones(2), np.zeros(2), np.zeros(0))
    assert result.ap.shape == (0, 10) and result.ap_mean.shape == (0,) and result.curves.f1.shape == (0, 1000)


def test_curves_contain_the_reported_point() -> None:
    rng = np.random.default_rng(1)
    result = average_precision(
        rng.random((50, 10)) < 0.6, rng.random(50), rng.integers(0, 2, 50), np.repeat([0, 1], 20)
    )
    at = int(np.flatnonzero(result.score == SCORE_GRID)[0])
    np.testing.assert_array_equal(result.curves.p[:, at], result.p)
    np.testing.assert_array_equal(result.curves.f1[:, at], result.f1)
    assert (np.diff(result.curves.precision_over_recall, axis=1) <= 1e-12).all()
