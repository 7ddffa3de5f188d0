"""NMS in the graph against utils.ops.nms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from utils.export.nms_graph import GraphNms
from utils.ops.nms import non_max_suppression

NUM_CLASSES = 5


def make_decoded_rows(count: int, seed: int, *, images: int = 3) -> Tensor:
    """Make crowded boxes with scores from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(images, count, 5 + NUM_CLASSES, generator=generator)
    rows[..., :2] *= 200
    rows[..., 2:4] = rows[..., 2:4] * 60 + 5
    return rows


def pad(detections: list[Tensor], max_det: int) -> Tensor:
    """Stack detections to (B, max_det, 6), padded with zeros."""
    result = torch.zeros(len(detections), max_det, 6)
    for rows, image_detections in zip(result, detections, strict=True):
        rows[: len(image_detections)] = image_detections
    return result


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(("count", "max_det"), [(400, 50), (400, 7), (30, 50), (1, 3)])
@pytest.mark.parametrize(("conf", "iou"), [(0.25, 0.45), (0.0, 0.9), (0.6, 0.1)])
def test_same_detections(agnostic: bool, count: int, max_det: int, conf: float, iou: float) -> None:
    rows = make_decoded_rows(count, seed=count)
    graph = GraphNms(NUM_CLASSES, conf_thres=conf, iou_thres=iou, max_det=max_det, agnostic=agnostic)
    expected = non_max_suppression(rows, conf, iou, agnostic=agnostic, max_det=max_det)
    torch.testing.assert_close(graph(rows), pad(expected, max_det), rtol=0, atol=0)


def test_nothing_above_the_threshold_gives_zeros() -> None:
    assert not GraphNms(NUM_CLASSES, conf_thres=1.0, max_det=4)(make_decoded_rows(20, seed=1)).any()


def test_images_and_classes_are_suppressed_separately() -> None:
    rows = torch.zeros(2, 2, 5 + NUM_CLASSES)
    rows[..., :5] = torch.tensor([100.0, 100.0, 50.0, 50.0, 1.0])
    rows[0, 0, 5], rows[0, 1, 9], rows[1, :, 7] = 0.9, 0.8, torch.tensor([0.5, 0.6])
    detections = GraphNms(NUM_CLASSES, max_det=3)(rows)
    assert detections[0, :, 4:].tolist() == [[pytest.approx(0.9), 0], [pytest.approx(0.8), 4], [0, 0]]
    assert detections[1, :, 4:].tolist() == [[pytest.approx(0.6), 2], [0, 0], [0, 0]]
    assert detections[1, 0, :4].tolist() == [75, 75, 125, 125]


def test_half_precision_rows_are_computed_in_fp32() -> None:
    rows = make_decoded_rows(50, seed=2).half()
    detections = GraphNms(NUM_CLASSES, max_det=10)(rows)
    assert detections.dtype == torch.float32
    torch.testing.assert_close(detections, pad(non_max_suppression(rows, max_det=10), 10), rtol=0, atol=0)
