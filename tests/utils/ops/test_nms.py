from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.core.errors import InputError
from utils.ops import nms
from utils.ops.boxes import box_iou_matrix, scale_boxes, xywh_to_xyxy
from utils.ops.nms import non_max_suppression


def rows(*values: list[float]) -> Tensor:
    """One image of decoded rows x, y, w, h, objectness, classes."""
    return torch.tensor([values])


def crowd(seed: int, num_rows: int, num_classes: int, *, levels: int | None = None) -> Tensor:
    """Two images of overlapping boxes; `levels` rounds scores, so that many are equal."""
    rng = torch.Generator().manual_seed(seed)
    boxes = torch.rand(2, num_rows, 4, generator=rng) * torch.tensor([60, 60, 30, 30]) + 5
    scores = torch.rand(2, num_rows, 1 + num_classes, generator=rng)
    if levels:
        scores = (scores * levels).ceil() / levels
    return torch.cat((boxes, scores), dim=2)


def slow_nms(decoded: Tensor, conf: float, iou: float, *, multi_label: bool, agnostic: bool, max_det: int) -> Tensor:
    """Plain greedy NMS of one image; equal scores in order of row and class."""
    scores = decoded[:, 5:] * decoded[:, 4:5]
    if not multi_label:
        best = scores.argmax(dim=1, keepdim=True)
        scores = torch.full_like(scores, -1).scatter(1, best, scores.gather(1, best))
    detections = [(s, r, c) for r, line in enumerate(scores.tolist()) for c, s in enumerate(line) if s > conf]
    detections.sort(key=lambda item: -item[0])
    boxes = xywh_to_xyxy(decoded[:, :4].double())
    overlaps = box_iou_matrix(boxes, boxes, eps=0.0)
    kept: list[tuple[float, int, int]] = []
    for score, row, label in detections:
        if all(overlaps[row, r] <= iou or (c != label and not agnostic) for _, r, c in kept):
            kept.append((score, row, label))
    return torch.tensor([[*boxes[r].tolist(), s, c] for s, r, c in kept[:max_det]]).reshape(-1, 6)


def test_known_case() -> None:
    decoded = rows(
        [10, 10, 8, 8, 0.9, 1.0, 0.0],  # kept
        [11, 10, 8, 8, 0.8, 1.0, 0.0],  # IoU 7/9 with the first: dropped
        [11, 10, 8, 8, 0.7, 0.0, 1.0],  # another class: kept
        [40, 10, 8, 8, 0.6, 1.0, 0.0],  # elsewhere: kept
        [70, 10, 8, 8, 0.2, 1.0, 0.0],  # score too low
    )
    (detections,) = non_max_suppression(decoded, 0.25, 0.45)
    expected = [[6, 6, 14, 14, 0.9, 0], [7, 6, 15, 14, 0.7, 1], [36, 6, 44, 14, 0.6, 0]]
    torch.testing.assert_close(detections, torch.tensor(expected))
    (detections,) = non_max_suppression([decoded], 0.25, 0.45, agnostic=True, max_det=1)
    torch.testing.assert_close(detections, torch.tensor(expected[:1]))
    (detections,) = non_max_suppression(decoded, 0.25, 0.45, classes=[1, 99])
    torch.testing.assert_close(detections, torch.tensor(expected[1:2]))


def test_multi_label_gives_a_row_per_class() -> None:
    decoded = rows([10, 10, 4, 4, 0.5, 0.8, 0.6])
    (detections,) = non_max_suppression(decoded, 0.25, multi_label=True)
    torch.testing.assert_close(detections[:, 4:], torch.tensor([[0.4, 0.0], [0.3, 1.0]]))
    (detections,) = non_max_suppression(decoded, 0.35, multi_label=True)
    assert detections[:, 5].tolist() == [0]


def test_classes_select_boxes_by_their_best_class() -> None:
    decoded = rows(
        [10, 10, 8, 8, 0.9, 0.9, 0.6],  # best class 0: no candidate for class 1, though its score is sufficient
        [11, 10, 8, 8, 0.8, 0.1, 0.9],  # best class 1; overlaps the first, which is no candidate
    )
    for agnostic in (False, True):
        (detections,) = non_max_suppression(decoded, 0.25, 0.45, classes=[1], agnostic=agnostic)
        torch.testing.assert_close(detections, torch.tensor([[7.0, 6, 15, 14, 0.72, 1]]))
    (detections,) = non_max_suppression(decoded, 0.25, 0.45, classes=[1], multi_label=True)
    torch.testing.assert_close(detections[:, 4:], torch.tensor([[0.72, 1.0]]))  # 0.54 of the first is suppressed
    (detections,) = non_max_suppression(decoded, 0.25, 0.99, classes=[1], multi_label=True)
    torch.testing.assert_close(detections[:, 4:], torch.tensor([[0.72, 1.0], [0.54, 1.0]]))
    assert len(non_max_suppression(decoded, 0.25, classes=[])[0]) == 0


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("max_det", [5, 300])
def test_equals_unlimited_greedy_suppression(
    monkeypatch: pytest.MonkeyPatch, multi_label: bool, agnostic: bool, levels: int | None, max_det: int
) -> None:
    monkeypatch.setattr(nms, "NUM_RANKED_FIRST", 40)  # small cases take every path
    monkeypatch.setattr(nms, "MIN_CHUNK", 8)
    monkeypatch.setattr(nms, "MAX_CHUNK", 16)
    monkeypatch.setattr(nms, "MIN_GROUPED_ROWS", 8)
    monkeypatch.setattr(nms, "CLASS_GROUPS", 2)
    decoded = crowd(3, 120, 3, levels=levels)
    kind = {"multi_label": multi_label, "agnostic": agnostic, "max_det": max_det}
    detections = non_max_suppression(decoded, 0.1, 0.5, **kind)  # type: ignore[arg-type]
    for ours, image in zip(detections, decoded, strict=True):
        expected = slow_nms(image, 0.1, 0.5, **kind)  # type: ignore[arg-type]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("classes", [None, [0, 2, 7]])
@pytest.mark.parametrize("nm", [0, 1])
def test_gpu_path_finds_the_same_candidates(multi_label: bool, classes: list[int] | None, nm: int) -> None:
    decoded = crowd(4, 60, 4)
    settings = (decoded, 0.3, classes, multi_label, nm)
    plain, batched = nms._find_candidates_numpy(*settings), nms._find_candidates(*settings)
    assert len(plain) == len(batched) == 2 and min(len(p) for p in plain) > 0
    for a, b in zip(plain, batched, strict=True):
        assert torch.equal(a, b)


def test_more_candidates_than_the_original_processes() -> None:
    """40 000 copies of one box precede a weaker box elsewhere, which must be detected; memory stays small."""
    decoded = torch.tensor([10.0, 10, 8, 8, 0.9, 1.0]).repeat(1, 40_001, 1)
    decoded[0, 20_000] = torch.tensor([50.0, 50, 8, 8, 0.3, 1.0])
    (detections,) = non_max_suppression(decoded, 0.25, 0.45)
    torch.testing.assert_close(detections[:, 4], torch.tensor([0.9, 0.3]))


def test_many_classes_do_not_blur_the_boxes() -> None:
    """IoU just under and over the threshold, in a class whose offset would cost float32 a sixteenth of a pixel."""
    decoded = torch.zeros(1, 2, 5 + 1000)
    decoded[0, :, :5] = torch.tensor([[600.5, 600.5, 10, 10, 0.9], [600.5, 600.5, 10, 7.01, 0.8]])  # IoU 0.701
    decoded[0, :, -1] = 1
    assert len(non_max_suppression(decoded, 0.25, 0.70)[0]) == 1
    assert len(non_max_suppression(decoded, 0.25, 0.702)[0]) == 2


def test_images_without_candidates_and_without_rows() -> None:
    decoded = torch.cat((crowd(0, 50, 2)[:1], torch.zeros(1, 50, 7)))
    detections = non_max_suppression(decoded, 0.3)
    assert len(detections[0]) > 0 and detections[1].shape == (0, 6)
    assert [f.shape for f in non_max_suppression(torch.zeros(2, 0, 7))] == [(0, 6), (0, 6)]
    assert non_max_suppression(torch.zeros(0, 10, 7)) == []


def test_mask_coefficients_are_carried_and_are_no_classes() -> None:
    decoded = rows([10, 10, 4, 4, 0.9, 0.1, 0.8, 5.0, -7.0], [30, 30, 4, 4, 0.9, 0.9, 0.1, 3.0, 2.0])
    (detections,) = non_max_suppression(decoded, 0.25, nm=2, multi_label=True)
    expected = torch.tensor([[0.81, 0, 2.7, 1.8], [0.72, 1, 4.5, -6.3]])  # coefficients times objectness
    torch.testing.assert_close(detections[:, 4:], expected)


def test_known_objects_enter_with_score_one() -> None:
    decoded = rows([10, 10, 8, 8, 0.9, 1.0, 0.0], [50, 50, 8, 8, 0.9, 1.0, 0.0])
    known = [torch.tensor([[0.0, 10.5, 10, 8, 8]])]
    (detections,) = non_max_suppression(decoded, labels=known)
    torch.testing.assert_close(detections, torch.tensor([[6.5, 6, 14.5, 14, 1, 0], [46, 46, 54, 54, 0.9, 0]]))


def test_half_precision_input() -> None:
    decoded = crowd(1, 40, 2).half()
    for low, full in zip(non_max_suppression(decoded), non_max_suppression(decoded.float()), strict=True):
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, full)


def test_input_stays_as_it_is() -> None:
    decoded = crowd(2, 40, 2)
    before = decoded.clone()
    non_max_suppression(decoded, 0.1, classes=[1], multi_label=True)
    assert torch.equal(decoded, before)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"conf_thres": 1.5}, "confidence threshold 1.5"),
        ({"iou_thres": -0.1}, "IoU threshold -0.1"),
        ({"max_det": 0}, "max_det 0"),
    ],
)
def test_impossible_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        non_max_suppression(torch.zeros(1, 1, 6), **setting)


@pytest.mark.parametrize("image", ["bus", "zidane"])
@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("detect", {"max_det": 1000}),
        ("val", {"conf_thres": 0.001, "iou_thres": 0.6, "multi_label": True}),
        ("agnostic", {"conf_thres": 0.1, "agnostic": True}),
    ],
)
def test_against_the_original(shared: Path, image: str, case: str, settings: dict[str, Any]) -> None:
    golden = np.load(shared / "reference/golden/yolov5n_coco.npz")
    input_hw = tuple(golden[f"{image}_input_shape"][2:])
    original_hw = {"bus": (1080, 810), "zidane": (720, 1280)}[image]
    (detections,) = non_max_suppression(torch.tensor(golden[f"{image}_decoded"]), **settings)
    detections = scale_boxes(detections, input_hw, original_hw)
    if case == "detect":
        detections[:, :4] = detections[:, :4].round()
    expected = torch.tensor(golden[f"{image}_nms_{case}"])
    torch.testing.assert_close(detections, expected, rtol=0, atol=1e-4)
