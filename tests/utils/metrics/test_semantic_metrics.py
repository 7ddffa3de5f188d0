from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from utils.core.types import Batch, Prediction
from utils.imaging.semantic_classes import SemanticClasses
from utils.metrics.semantic import SemanticEvaluator, count_confusion


def make_batch(masks: torch.Tensor, originals: list[torch.Tensor] | None = None) -> Batch:
    images = torch.zeros(len(masks), 3, *masks.shape[1:], dtype=torch.uint8)
    return Batch(images, torch.zeros(0, 6), ["a.png"] * len(masks), semantic_masks=masks, original_masks=originals)


def random_masks(count: int, classes: list[int], seed: int, size_hw: tuple[int, int] = (24, 40)) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.choice(np.array(classes, np.uint8), (count, *size_hw)))


def evaluate(predicted: torch.Tensor, true: torch.Tensor, count: int) -> SemanticEvaluator:
    evaluator = SemanticEvaluator(SemanticClasses.from_count(count))
    for start in range(0, len(true), 2):
        rows = predicted[start : start + 2]
        evaluator.update([Prediction(semantic_mask=row) for row in rows], make_batch(true[start : start + 2]))
    return evaluator


def test_by_hand() -> None:
    true = torch.tensor([[[0, 0, 1, 1], [2, 255, 255, 1]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 1, 1, 1], [2, 3, 0, 0]]])
    result = evaluate(predicted, true, 5).compute()
    # class 0: 1 correct of 2 labeled and 2 predicted: 1/3; class 1: 2 of 3 and 3: 2/4; class 2: 1; 3 only where ignored
    np.testing.assert_allclose(result.details["iou"], [1 / 3, 0.5, 1, 0, 0])
    assert result.details["present"].tolist() == [True, True, True, False, False]
    assert result.metrics["metrics/mIoU"] == pytest.approx((1 / 3 + 0.5 + 1) / 3)
    assert result.metrics["metrics/pixel_accuracy"] == pytest.approx(4 / 6)
    assert result.fitness == result.metrics["metrics/mIoU"]
    assert result.details["confusion"][0].tolist() == [1, 1, 0, 0, 0]  # predicted 0 where the label says 0 and 1
    lines = result.table.splitlines()
    assert lines[1].split() == ["all", "6", "0.667", "0.611"]
    assert [line.split()[0] for line in lines[2:]] == ["0", "1", "2"]


def test_class_that_is_only_predicted_counts_as_zero() -> None:
    true = torch.zeros(1, 2, 2, dtype=torch.uint8)
    predicted = torch.tensor([[[0, 0], [0, 1]]])
    result = evaluate(predicted, true, 3).compute()
    assert result.metrics["metrics/mIoU"] == pytest.approx((0.75 + 0) / 2)


@pytest.mark.parametrize("count", [1, 2, 19, 150, 254])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_equals_scikit_learn(count: int, dtype: torch.dtype) -> None:
    known = list(range(0, count, 2)) if count > 2 else list(range(count))  # some classes do not occur
    true, predicted = random_masks(5, [*known, 255], 0), random_masks(5, known, 1)
    predicted = torch.where(random_masks(5, [0, 1], 2) == 1, true.clamp(max=count - 1), predicted)
    evaluator = evaluate(predicted.to(dtype), true, count)
    result = evaluator.compute()
    counted = true != 255
    y, x = true[counted].numpy(), predicted[counted].numpy()
    np.testing.assert_array_equal(evaluator.confusion.T, confusion_matrix(y, x, labels=range(count)))
    present = np.unique(np.concatenate([y, x]))
    assert result.metrics["metrics/mIoU"] == pytest.approx(jaccard_score(y, x, labels=present, average="macro"))
    assert result.metrics["metrics/pixel_accuracy"] == pytest.approx(accuracy_score(y, x))


def test_original_masks_are_compared_if_available() -> None:
    small = torch.zeros(2, 4, 4, dtype=torch.uint8)
    originals = [torch.ones(6, 8, dtype=torch.uint8), torch.ones(3, 5, dtype=torch.uint8)]
    evaluator = SemanticEvaluator(SemanticClasses.from_count(2))
    evaluator.update([Prediction(semantic_mask=m.long()) for m in originals], make_batch(small, originals))
    assert evaluator.confusion.tolist() == [[0, 0], [0, 63]]
    with pytest.raises(RuntimeError, match="must match the size"):
        evaluator.update([Prediction(semantic_mask=m) for m in small], make_batch(small, originals))


def test_nothing_measured() -> None:
    result = SemanticEvaluator(SemanticClasses.from_count(3)).compute()
    assert result.metrics == {"metrics/mIoU": 0.0, "metrics/pixel_accuracy": 0.0}
    assert len(result.table.splitlines()) == 2


def test_counts_of_all_values_stay_within_their_type() -> None:
    true = torch.arange(256, dtype=torch.uint8)
    for count in (127, 128, 129, 255):
        counts = count_confusion(torch.full((256,), count - 1), true, count)
        assert int(counts.sum()) == count
        assert bool((counts[count - 1] == 1).all())


def test_plots(tmp_path: Path) -> None:
    evaluator = evaluate(random_masks(2, [0, 1], 0), random_masks(2, [0, 1, 255], 1), 3)
    evaluator.plot(tmp_path)
    for name in ("semantic_confusion_matrix.png", "semantic_iou.png"):
        image = cv2.imread(str(tmp_path / name))
        assert image.std() > 5, name
    SemanticEvaluator(SemanticClasses.from_count(3)).plot(tmp_path / "empty")
    assert (tmp_path / "empty" / "semantic_iou.png").is_file()
