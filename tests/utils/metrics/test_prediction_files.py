from __future__ import annotations

from pathlib import Path

import pytest
import torch

from utils.core.errors import InputError
from utils.core.types import Batch, Letterbox, Prediction
from utils.metrics.prediction_files import BoxTextWriter, merge_labels

LABELS = torch.tensor([[1.0, 10, 10, 20, 20]])


@pytest.mark.parametrize(
    ("box", "label", "is_kept"),
    [
        pytest.param([10, 10, 20, 18], 1, False, id="same-class-iou-0.8"),
        pytest.param([10, 10, 20, 18], 0, True, id="other-class"),
        pytest.param([10, 10, 20, 15], 1, True, id="iou-0.5"),
    ],
)
def test_predictions_of_labeled_objects_are_dropped(box: list[float], label: int, is_kept: bool) -> None:
    rows = merge_labels(torch.tensor([[*box, 0.7, label]]).float(), LABELS, 0.6)
    assert rows[0].tolist() == [10, 10, 20, 20, 1, 1]
    assert len(rows) == 1 + is_kept


def test_labels_only_and_nothing() -> None:
    assert merge_labels(torch.zeros(0, 6), LABELS, 0.6).shape == (1, 6)
    assert merge_labels(torch.zeros(0, 6), torch.zeros(0, 5), 0.6).shape == (0, 6)


def test_text_is_normalized_by_the_original_size(tmp_path: Path) -> None:
    fit = Letterbox(original_hw=(100, 200), ratio_wh=(0.5, 0.5), pad_wh=(0, 25))  # 100x50 inside 100x100
    batch = Batch(torch.zeros(1, 3, 100, 100, dtype=torch.uint8), torch.zeros(0, 6), ["a/b.jpg"], [fit])
    writer = BoxTextWriter(tmp_path / "labels", with_score=True)
    writer.update([Prediction(boxes=torch.tensor([[40.0, 40, 60, 50, 0.5, 3]]))], batch)
    writer.close()
    assert (tmp_path / "labels/b.txt").read_text() == "3 0.5 0.4 0.2 0.2 0.5\n"


def test_folder_that_is_removed_during_the_run(tmp_path: Path) -> None:
    batch = Batch(torch.zeros(1, 3, 9, 9, dtype=torch.uint8), torch.zeros(0, 6), ["b.jpg"], [Letterbox((9, 9))])
    writer = BoxTextWriter(tmp_path / "labels", with_score=True)
    (tmp_path / "labels").rmdir()
    with pytest.raises(InputError, match=r"labels: removed during the run, its results are lost; run again"):
        writer.update([Prediction(boxes=torch.zeros(0, 6))], batch)


def test_images_with_the_same_stem_have_separate_files(tmp_path: Path) -> None:
    fit = Letterbox(original_hw=(100, 100))
    batch = Batch(torch.zeros(2, 3, 100, 100, dtype=torch.uint8), torch.zeros(0, 6), ["x/a.jpg", "y/a.jpg"], [fit, fit])
    boxes = [Prediction(boxes=torch.tensor([[0.0, 0, 10, 10, 0.5, label]])) for label in (0, 1)]
    BoxTextWriter(tmp_path, with_score=False).update(boxes, batch)
    assert (tmp_path / "a.txt").read_text().startswith("0 ")
    assert (tmp_path / "a_2.txt").read_text().startswith("1 ")
