from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils.core.types import Letterbox
from utils.ops import prototypes
from utils.ops.nms import non_max_suppression
from utils.ops.prototypes import PrototypeMasks, mask_iou_matrix, split_masks


def make_masks(seed: int = 0, count: int = 12) -> PrototypeMasks:
    """Smooth prototypes of 20x32 cells for an input of 80x128 pixels; boxes may exceed it."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 6, 5, 8, generator=rng)
    corners = torch.rand(count, 2, generator=rng) * torch.tensor([128.0, 80.0]) - 10
    boxes = torch.cat((corners, corners + torch.rand(count, 2, generator=rng) * 60), dim=1)
    fields = F.interpolate(coarse, (20, 32), mode="bicubic")[0]
    return PrototypeMasks(fields, torch.randn(count, 6, generator=rng), boxes, (80, 128))


def test_decoding_against_the_original(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/segment.npz")
    parts = [torch.tensor(golden[f"pm_{name}"]) for name in ("proto", "coef", "boxes")]
    masks = PrototypeMasks(*parts, (160, 160))
    assert (masks.to_prototype_size().numpy() == golden["pm_masks_40"]).all()
    assert (masks.to_input().dense() == golden["pm_masks_160"]).all()


def plain_probabilities(masks: PrototypeMasks) -> torch.Tensor:
    return torch.einsum("nc,chw->nhw", masks.coefficients, masks.prototypes).sigmoid()


def inside(boxes: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    y, x = torch.arange(size_hw[0])[:, None], torch.arange(size_hw[1])
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


def test_decoding_boxes_equals_decoding_the_whole_input() -> None:
    masks = make_masks()
    cropped = plain_probabilities(masks) * inside(masks.boxes_xyxy / 4, (20, 32))
    assert torch.equal(masks.to_prototype_size(), cropped > 0.5)
    whole = F.interpolate(cropped[None], (80, 128), mode="bilinear", align_corners=False)[0]
    is_clear = (whole - 0.5).abs() > 1e-4
    decoded = masks.to_input()
    assert (torch.from_numpy(decoded.dense()) == (whole > 0.5))[is_clear].all()
    assert decoded.areas.max() > 100 and sum(b.size for b in decoded.bitmaps) < 0.2 * whole.numel()


@pytest.mark.parametrize("conf", [0.05, 0.25, 0.5, 0.9])
def test_masks_of_uncertain_objects_equal_a_plain_decoding(conf: float) -> None:
    """From head output to masks: coefficients are scaled by objectness, which moves the mask's border."""
    source, rng = make_masks(2, count=40), torch.Generator().manual_seed(2)
    objectness = torch.rand(40, 1, generator=rng) * 0.96 + 0.04
    near, far = source.boxes_xyxy.split(2, dim=1)
    xywh = torch.cat(((near + far) / 2, far - near), dim=1)
    decoded = torch.cat((xywh, objectness, torch.ones(40, 1), source.coefficients), dim=1)
    (rows,) = non_max_suppression(decoded[None], conf, 1.0, nm=6)
    order = [i for i in objectness[:, 0].argsort(descending=True).tolist() if objectness[i, 0] > conf]
    assert len(rows) == len(order) > 0
    boxes, masks = split_masks(rows, source.prototypes, (80, 128))
    small = torch.einsum("nc,chw->nhw", (source.coefficients * objectness)[order], source.prototypes).sigmoid()
    whole = F.interpolate((small * inside(boxes[:, :4] / 4, (20, 32)))[None], (80, 128), mode="bilinear")[0]
    assert (masks.to_input().dense() == (whole > 0.5).numpy()).all()


def test_masks_in_the_original_image_are_upsampled_before_cropping() -> None:
    masks = make_masks(1)
    fit = Letterbox(original_hw=(120, 256), ratio_wh=(0.5, 0.5), pad_wh=(0, 10))  # 60x128 inside 80x128
    whole = F.interpolate(plain_probabilities(masks)[None], (160, 256), mode="bilinear", align_corners=False)[0]
    whole = whole[:, 20:140]
    boxes = masks.boxes_xyxy * 2 - torch.tensor([0.0, 20, 0, 20])
    is_clear = (whole - 0.5).abs() > 0.02  # OpenCV's warp has 32 positions between two pixels
    decoded = torch.from_numpy(masks.to_original(fit).dense())
    assert (decoded == ((whole > 0.5) & inside(boxes, (120, 256))))[is_clear].all()
    assert decoded.shape == (12, 120, 256)


def test_chunks_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = make_masks()
    whole = masks.to_prototype_size()
    overlaps = mask_iou_matrix(whole, whole)
    monkeypatch.setattr(prototypes, "DENSE_PIXELS", 20 * 32 * 5)
    assert torch.equal(masks.to_prototype_size(), whole)
    assert torch.equal(mask_iou_matrix(whole, whole), overlaps)


def test_no_detections() -> None:
    none = make_masks().select(torch.zeros(12, dtype=torch.bool))
    assert len(none) == 0
    assert none.to_prototype_size().shape == (0, 20, 32)
    assert none.to_input().dense().shape == (0, 80, 128)
    assert mask_iou_matrix(none.to_prototype_size(), make_masks().to_prototype_size()).shape == (0, 12)


def test_mask_iou_by_hand() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3] = True, True
    assert mask_iou_matrix(masks[:2], masks).tolist() == [
        [pytest.approx(1), pytest.approx(1 / 3), 0],
        [pytest.approx(1 / 3), pytest.approx(1), 0],
    ]
