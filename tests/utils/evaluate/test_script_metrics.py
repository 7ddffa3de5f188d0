"""Matching and prediction files of one image, with the arguments of YOLOv5's val.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segment import val as segment_val
from val import process_batch, save_one_json, save_one_txt

IOUV = torch.linspace(0.5, 0.95, 10)


@pytest.mark.parametrize("image", range(4))
def test_matches_against_the_reference(image: int, shared: Path) -> None:
    golden = np.load(shared / "reference/golden/match.npz")
    detections, labels = (torch.from_numpy(golden[f"{name}{image}"]) for name in ("detections", "labels"))
    correct = process_batch(detections, labels, torch.from_numpy(golden["iou_thresholds"]))
    assert correct.dtype == torch.bool
    np.testing.assert_array_equal(correct.numpy(), golden[f"correct{image}"])


def test_no_labels() -> None:
    assert process_batch(torch.rand(3, 6), torch.zeros(0, 5), IOUV).tolist() == [[False] * 10] * 3


def make_masks() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two detections and labels on 8x8 masks; the first pair of masks has IoU 12 / 16, the second none."""
    labels = torch.tensor([[0.0, 0, 0, 4, 4], [1.0, 4, 4, 8, 8]])
    detections = torch.tensor([[0.0, 0, 4, 4, 0.9, 0], [4.0, 4, 8, 8, 0.8, 1]])
    true, predicted = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    true[0, :4, :4] = true[1, 4:, 4:] = 1
    predicted[0, :4, :3] = predicted[1, :4, 4:] = 1
    return detections, labels, true, predicted


def test_masks_match_by_their_own_iou() -> None:
    detections, labels, true, predicted = make_masks()
    arguments = (detections, labels, IOUV, predicted)
    expected = [[True] * 6 + [False] * 4, [False] * 10]  # 0.75 reaches 0.5 to 0.75
    assert segment_val.process_batch(*arguments, true, masks=True).tolist() == expected
    assert segment_val.process_batch(detections, labels, IOUV).all()  # the boxes are equal
    numbers = true[0] + 2 * true[1]  # one map: 1 and 2
    assert segment_val.process_batch(*arguments, numbers[None], overlap=True, masks=True).tolist() == expected


def test_larger_label_masks_are_resized() -> None:
    detections, labels, true, predicted = make_masks()
    large = true.repeat_interleave(4, 1).repeat_interleave(4, 2)
    matches = segment_val.process_batch(detections, labels, IOUV, predicted, large, masks=True)
    assert matches.sum(1).tolist() == [6, 0]
    with pytest.raises(ValueError, match="pred_masks and gt_masks"):
        segment_val.process_batch(detections, labels, IOUV, masks=True)


def test_text_lines_are_appended(tmp_path: Path) -> None:
    rows = torch.tensor([[10.0, 20, 30, 60, 0.5, 2]])  # in an image of 100x80: center 20, 40, size 20, 40
    for with_score in (False, True):
        save_one_txt(rows, with_score, torch.Size([80, 100]), tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "2 0.2 0.5 0.2 0.5\n2 0.2 0.5 0.2 0.5 0.5\n"


def test_json_items() -> None:
    items: list[dict[str, Any]] = []
    rows = torch.tensor([[10.12345, 20, 30, 60, 0.123456, 2], [0, 0, 2, 1, 0.5, 0]])
    save_one_json(rows, items, Path("a/000042.jpg"), [1, 2, 18])
    assert items[0] == {"image_id": 42, "category_id": 18, "bbox": [10.123, 20, 19.877, 40], "score": 0.12346}
    masks = np.zeros((2, 4, 2), np.uint8)  # (H, W, n)
    masks[0, 1:3, 1] = 1
    save_one_json(rows, items, Path("b.jpg"), {0: 5, 2: 7}, masks)
    assert [item["category_id"] for item in items] == [18, 1, 7, 5]
    mask_utils = pytest.importorskip("pycocotools.mask")
    assert mask_utils.decode(items[3]["segmentation"]).tolist() == masks[:, :, 1].tolist()
    assert items[2]["image_id"] == "b"
