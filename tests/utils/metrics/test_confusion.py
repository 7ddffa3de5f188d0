from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from utils.metrics.confusion import ConfusionMatrix

LABELS = np.array([[0, 0, 0, 10, 10], [1, 50, 50, 60, 60.0]])


def detection(x: float, y: float, score: float, label: int) -> list[float]:
    return [x, y, x + 10, y + 10, score, label]


def counts(matrix: ConfusionMatrix) -> dict[tuple[int, int], int]:
    """Cells that are not zero: (predicted, true) -> count."""
    rows, columns = matrix.matrix.nonzero()
    return {(int(r), int(c)): int(matrix.matrix[r, c]) for r, c in zip(rows, columns, strict=True)}


def test_equals_the_original(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/confusion.npz")
    matrix = ConfusionMatrix(4)
    for detections, labels in zip(golden["detections"], golden["labels"], strict=True):
        matrix.update(torch.tensor(detections), torch.tensor(labels))
    np.testing.assert_array_equal(matrix.matrix, golden["matrix"])


def test_correct_wrong_missed_and_false_detections() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([detection(0, 0, 0.9, 1), detection(80, 80, 0.8, 0), detection(50, 50, 0.2, 1)]), LABELS)
    assert counts(matrix) == {(1, 0): 1, (0, 2): 1, (2, 1): 1}  # the last detection is under the score threshold
    assert matrix.true_positives.tolist() == [0, 0] and matrix.false_positives.tolist() == [1, 1]
    np.testing.assert_array_equal(matrix.normalize(), [[0, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_label_is_matched_with_the_highest_iou() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([detection(2, 0, 0.99, 1), detection(0, 0, 0.5, 0), detection(50, 50, 0.5, 1)]), LABELS)
    assert counts(matrix) == {(0, 0): 1, (1, 1): 1, (1, 2): 1}


def test_images_without_labels_detections_or_matches() -> None:
    matrix, none = ConfusionMatrix(2), np.zeros((0, 5))
    matrix.update(np.array([detection(0, 0, 0.9, 1)]), none)  # the original skips these
    assert counts(matrix) == {(1, 2): 1}
    matrix.update(np.array([detection(90, 0, 0.9, 1)]), LABELS)
    assert counts(matrix) == {(1, 2): 2, (2, 0): 1, (2, 1): 1}
    matrix.update(None, LABELS)
    matrix.update(np.zeros((0, 6)), none)
    assert counts(matrix) == {(1, 2): 2, (2, 0): 2, (2, 1): 2}
    matrix.update(None, torch.tensor([1.0, 1]))  # classes alone, as val.py of the original gives them
    matrix.update(None, torch.zeros(0))
    assert counts(matrix) == {(1, 2): 2, (2, 0): 2, (2, 1): 4}
