from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.core.types import Batch, Letterbox, Prediction
from utils.metrics.detection import DetectionEvaluator, get_image_labels

FIT = Letterbox(original_hw=(100, 200), ratio_wh=(0.5, 0.5), pad_wh=(0, 25))  # 200x100 -> 100x50 inside 100x100


def make_batch(targets: list[list[float]], num_images: int = 1) -> Batch:
    rows = torch.tensor(targets) if targets else torch.zeros(0, 6)
    images = torch.zeros(num_images, 3, 100, 100, dtype=torch.uint8)
    return Batch(images, rows, ["a.jpg"] * num_images, [FIT] * num_images)


def test_image_labels_are_in_input_pixels() -> None:
    batch = make_batch([[0, 1, 0.5, 0.5, 0.2, 0.4], [1, 0, 0.1, 0.1, 0.1, 0.1]], num_images=2)
    assert torch.allclose(get_image_labels(batch, 0), torch.tensor([[1.0, 40, 30, 60, 70]]))


def test_perfect_detection_scores_one() -> None:
    evaluator = DetectionEvaluator({0: "cat", 1: "dog"}, per_class=True)
    evaluator.update(
        [Prediction(boxes=torch.tensor([[40.0, 40, 60, 60, 0.9, 1]]))], make_batch([[0, 1, 0.5, 0.5, 0.2, 0.2]])
    )
    result = evaluator.compute()
    assert result.metrics["metrics/mAP_0.5"] == pytest.approx(0.995, abs=1e-3)
    assert result.fitness == pytest.approx(
        0.1 * result.metrics["metrics/mAP_0.5"] + 0.9 * result.metrics["metrics/mAP_0.5:0.95"]
    )
    assert result.per_class[1] == pytest.approx(0.995, abs=1e-3)
    assert "dog" in result.table
    assert evaluator.confusion.matrix[1, 1] == 1


def test_wrong_class_scores_zero() -> None:
    evaluator = DetectionEvaluator({0: "cat", 1: "dog"})
    evaluator.update(
        [Prediction(boxes=torch.tensor([[40.0, 40, 60, 60, 0.9, 0]]))], make_batch([[0, 1, 0.5, 0.5, 0.2, 0.2]])
    )
    assert evaluator.compute().metrics["metrics/mAP_0.5"] == 0
    assert evaluator.confusion.matrix[0, 1] == 1


def test_false_positive_in_an_empty_image_counts_as_background() -> None:
    evaluator = DetectionEvaluator({0: "cat"})
    evaluator.update([Prediction(boxes=torch.tensor([[40.0, 40, 60, 60, 0.9, 0]]))], make_batch([]))
    result = evaluator.compute()
    assert evaluator.confusion.matrix[0, 1] == 1
    assert "no labels" in result.table


def test_no_labels_and_no_detections(tmp_path: Path) -> None:
    evaluator = DetectionEvaluator({0: "cat", 1: "dog"})
    evaluator.update([Prediction(boxes=torch.zeros(0, 6))], make_batch([]))
    result = evaluator.compute()
    assert all(value == 0 for value in result.metrics.values())
    assert np.isfinite(result.fitness)
    evaluator.plot(tmp_path)
    assert (tmp_path / "confusion_matrix.png").exists()


def test_table_columns_are_aligned_with_long_class_names() -> None:
    evaluator = DetectionEvaluator({0: "a name much longer than its column", 1: "cat"}, per_class=True)
    evaluator.update([Prediction(boxes=torch.zeros(0, 6))], make_batch([[0, 0, 0.5, 0.5, 0.2, 0.2]]))
    lines = evaluator.compute().table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].startswith(" a name much longer t…  ")
