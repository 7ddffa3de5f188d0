from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from utils.segment.metrics import BEST_KEYS, KEYS, Metric, Metrics, ap_per_class_box_and_mask, fitness


def test_keys_are_the_columns_of_results() -> None:
    assert len(KEYS) == 19 and len(BEST_KEYS) == 9
    assert KEYS[:5] == [*(f"train/{name}_loss" for name in ("box", "seg", "obj", "cls")), "metrics/precision(B)"]
    assert KEYS[7:9] == ["metrics/mAP_0.5:0.95(B)", "metrics/precision(M)"]
    assert KEYS[11:13] == ["metrics/mAP_0.5:0.95(M)", "val/box_loss"]
    assert KEYS[-3:] == ["x/lr0", "x/lr1", "x/lr2"] and "val/seg_loss" in KEYS
    assert BEST_KEYS[:3] == ["best/epoch", "best/precision(B)", "best/recall(B)"]


def test_fitness_by_hand() -> None:
    rows = np.array([[0.9, 0.9, 0.5, 0.4, 0.9, 0.9, 0.3, 0.2, 7.0]])
    assert fitness(rows).tolist() == pytest.approx([0.1 * 0.5 + 0.9 * 0.4 + 0.1 * 0.3 + 0.9 * 0.2])


def test_box_and_mask_against_the_reference(shared: Path, tmp_path: Path) -> None:
    """Masks are the reference; boxes have no true positives."""
    golden = np.load(shared / "reference/golden/ap.npz")
    tp, conf, pred, target = (golden[name] for name in ("tp", "conf", "pred_cls", "target_cls"))
    results = ap_per_class_box_and_mask(tp, np.zeros_like(tp), conf, pred, target, True, tmp_path, {0: "cat"})
    for name in ("p", "r", "ap", "f1"):
        np.testing.assert_allclose(results["masks"][name], golden[name], atol=1e-9)
        assert not results["boxes"][name].any()
    assert results["masks"]["ap_class"].tolist() == golden["classes"].tolist()
    curves = {f"{kind}{curve}_curve.png" for kind in ("Box", "Mask") for curve in ("F1", "P", "R", "PR")}
    assert {file.name for file in tmp_path.iterdir()} == curves

    metrics = Metrics()
    metrics.update(results)
    means = [golden["p"].mean(), golden["r"].mean(), golden["ap"][:, 0].mean(), golden["ap"].mean()]
    assert metrics.mean_results() == pytest.approx([0, 0, 0, 0, *means])
    second = [golden["p"][1], golden["r"][1], golden["ap"][1, 0], golden["ap"][1].mean()]
    assert metrics.class_result(1) == pytest.approx([0, 0, 0, 0, *second])
    assert metrics.ap_class_index.tolist() == golden["classes"].tolist()
    maps = metrics.get_maps(7)
    np.testing.assert_allclose(maps[:5], golden["ap"].mean(axis=1))  # classes 0 to 4
    np.testing.assert_allclose(maps[5:], golden["ap"].mean())


def test_metric_by_hand() -> None:
    metric = Metric()
    ap = np.array([[0.8, 0.4], [0.6, 0.2]])
    metric.update((np.array([0.5, 0.7]), np.array([0.1, 0.3]), ap, np.array([0.2, 0.4]), np.array([1, 3])))
    assert metric.ap50.tolist() == [0.8, 0.6] and metric.ap.tolist() == pytest.approx([0.6, 0.4])
    assert (metric.mp, metric.mr, metric.map50, metric.map) == pytest.approx((0.6, 0.2, 0.7, 0.5))
    assert metric.class_result(0) == pytest.approx((0.5, 0.1, 0.8, 0.6))
    assert metric.get_maps(4).tolist() == pytest.approx([0.5, 0.6, 0.5, 0.4])
    assert metric.f1.tolist() == [0.2, 0.4]


def test_no_labels() -> None:
    metrics = Metrics()
    assert metrics.mean_results() == (0.0,) * 8 and metrics.get_maps(3).tolist() == [0, 0, 0]
    empty = np.zeros((0, 10), bool)
    metrics.update(ap_per_class_box_and_mask(empty, empty, np.zeros(0), np.zeros(0), np.zeros(0)))
    assert metrics.mean_results() == (0.0,) * 8 and len(metrics.ap_class_index) == 0
