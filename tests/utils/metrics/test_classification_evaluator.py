"""Classification metrics against values computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.core.types import Batch, Prediction
from utils.metrics.classification import ClassificationEvaluator, compute_label_ranks


def make_batch(labels: list[int]) -> Batch:
    count = len(labels)
    return Batch(torch.zeros(count, 3, 2, 2), torch.zeros(0, 6), ["a"] * count, labels=torch.tensor(labels))


def predictions(*rows: list[float]) -> list[Prediction]:
    return [Prediction(probs=torch.tensor(row)) for row in rows]


def test_ranks() -> None:
    probs = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [0.4, 0.2, 0.4], [np.nan, np.nan, np.nan]])
    assert compute_label_ranks(probs, np.array([2, 0, 2, 0])).tolist() == [1, 0, 1, 3]


def test_accuracy_of_all_and_of_each_class(tmp_path: Path) -> None:
    names = dict(enumerate(["a", "b", "c", "d", "e", "f", "ein sehr langer Klassenname"]))
    evaluator = ClassificationEvaluator(names, per_class=True)
    right, close, wrong = [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [0.1] * 4 + [0.2, 0.3, 0.1], [0.2] * 6 + [0.0]
    evaluator.update(predictions(right, close), make_batch([0, 4]))
    evaluator.update(predictions(wrong), make_batch([6]))
    result = evaluator.compute()
    assert result.metrics == pytest.approx({"metrics/accuracy_top1": 1 / 3, "metrics/accuracy_top5": 2 / 3})
    assert result.fitness == pytest.approx(1 / 3)
    assert result.per_class.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 0, 1 / 3, 0])
    confusion = result.details["confusion"]
    assert confusion.sum() == 3
    assert confusion[0, 0] == confusion[5, 4] == confusion[0, 6] == 1
    lines = result.table.splitlines()
    assert lines[0].split() == ["Class", "Images", "top1_acc", "top5_acc"]
    assert lines[1].split() == ["all", "3", "0.333", "0.667"]
    assert lines[2].split() == ["a", "1", "1", "1"]
    assert "…" in lines[4]
    evaluator.plot(tmp_path)
    assert (tmp_path / "confusion_matrix.png").stat().st_size > 1000


def test_fewer_than_five_classes() -> None:
    evaluator = ClassificationEvaluator({0: "a", 1: "b"})
    evaluator.update(predictions([0.9, 0.1]), make_batch([1]))
    assert list(evaluator.compute().metrics.values()) == [0.0, 1.0]
    assert len(evaluator.compute().table.splitlines()) == 2
