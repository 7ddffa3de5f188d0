from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from utils.segment.general import (
    crop_mask,
    mask_iou,
    masks2segments,
    masks_iou,
    process_mask,
    process_mask_native,
    process_mask_upsample,
    scale_image,
)


def load(shared: Path) -> dict[str, torch.Tensor]:
    golden = np.load(shared / "reference/golden/segment.npz")
    return {
        name: torch.tensor(golden[name]) for name in ("pm_proto", "pm_coef", "pm_boxes", "pm_masks_40", "pm_masks_160")
    }


@pytest.mark.parametrize("upsample", [False, True])
def test_process_mask_against_the_reference(shared: Path, upsample: bool) -> None:
    golden = load(shared)
    masks = process_mask(golden["pm_proto"], golden["pm_coef"], golden["pm_boxes"], (160, 160), upsample=upsample)
    assert masks.dtype == torch.float32
    assert torch.equal(masks, golden["pm_masks_160" if upsample else "pm_masks_40"])


def test_half_precision_is_decoded_in_single() -> None:
    masks = process_mask(torch.randn(4, 8, 8).half(), torch.randn(2, 4).half(), torch.rand(2, 4) * 32, (32, 32))
    assert masks.dtype == torch.float32 and masks.shape == (2, 8, 8)


def test_crop_mask_by_hand() -> None:
    cropped = crop_mask(torch.ones(2, 4, 5), torch.tensor([[1.0, 2.0, 3.0, 9.0], [0.5, 0.0, 1.5, 1.0]]))
    assert cropped[0].nonzero().tolist() == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert cropped[1].nonzero().tolist() == [[0, 1]]  # pixels 1 <= x < 1.5
    assert crop_mask(torch.ones(0, 4, 5), torch.zeros(0, 4)).shape == (0, 4, 5)


def plain_masks(protos: np.ndarray, coefficients: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Probabilities (n, H, W), resized by cv2, whose linear interpolation also has aligned pixel areas."""
    logits = np.tensordot(coefficients, protos, axes=1)
    return np.stack([cv2.resize(1 / (1 + np.exp(-mask)), size_hw[::-1]) for mask in logits])


def random_case() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(6, 24, 40, generator=rng), torch.randn(3, 6, generator=rng)


def test_process_mask_upsample_crops_last() -> None:
    protos, coefficients = random_case()
    boxes = torch.tensor([[10.0, 20, 100, 80], [0, 0, 160, 96], [33.5, 5, 40, 90]])
    masks = process_mask_upsample(protos, coefficients, boxes, (96, 160))
    expected = plain_masks(protos.numpy(), coefficients.numpy(), (96, 160))
    for mask, probabilities, (x1, y1, x2, y2) in zip(masks, expected, boxes.numpy(), strict=True):
        x, y = np.arange(160), np.arange(96)[:, None]
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        clear = np.abs(probabilities - 0.5) > 1e-5
        assert np.array_equal(mask.numpy()[clear], ((probabilities > 0.5) & inside)[clear])
        assert clear.mean() > 0.999


def test_process_mask_native_removes_the_padding() -> None:
    protos, coefficients = random_case()
    size_hw = (60, 200)  # ratio 0.2: 12 x 40 of the prototypes, 6 rows of padding above and below
    boxes = torch.tensor([[0.0, 0, 200, 60], [20, 10, 90, 50], [150, 0, 180, 30]])
    masks = process_mask_native(protos, coefficients, boxes, size_hw)
    expected = plain_masks(protos[:, 6:18].numpy(), coefficients.numpy(), size_hw)
    assert masks.shape == (3, 60, 200)
    for mask, probabilities, (x1, y1, x2, y2) in zip(masks, expected, boxes.int().tolist(), strict=True):
        window = np.zeros(size_hw, bool)
        window[y1:y2, x1:x2] = True
        clear = np.abs(probabilities - 0.5) > 1e-5
        assert np.array_equal(mask.numpy()[clear] > 0, ((probabilities > 0.5) & window)[clear])


def test_no_detections() -> None:
    protos, coefficients, boxes = torch.randn(6, 24, 40), torch.zeros(0, 6), torch.zeros(0, 4)
    assert process_mask(protos, coefficients, boxes, (96, 160), upsample=True).shape == (0, 96, 160)
    assert process_mask_upsample(protos, coefficients, boxes, (96, 160)).shape == (0, 96, 160)
    assert process_mask_native(protos, coefficients, boxes, (60, 200)).shape == (0, 60, 200)


def test_scale_image_by_hand() -> None:
    """A frame of 8 x 8 holds an image of 4 x 8 with two rows of padding above and below."""
    frame = np.zeros((8, 8), np.uint8)
    frame[2:6, :4] = 1
    frame[:2], frame[6:] = 9, 9  # padding that must not show
    scaled = scale_image((8, 8), frame, (8, 16, 3))
    assert scaled.shape == (8, 16, 1)
    assert scaled[:, :7].min() == 1 and scaled[:, 9:].max() == 0
    many = scale_image((8, 8), np.repeat(frame[..., None], 600, axis=2), (8, 16))
    assert many.shape == (8, 16, 600) and (many == scaled).all()
    assert np.array_equal(scale_image((8, 8), frame, (8, 8, 3))[..., 0], frame)
    shifted = scale_image((8, 8), frame, (4, 8), ratio_pad=((1.0, 1.0), (0.0, 2.0)))
    assert np.array_equal(shifted[..., 0], frame[2:6])
    assert scale_image((8, 8), np.zeros((8, 8, 0), np.uint8), (4, 8)).shape == (4, 8, 0)


def test_mask_ious_by_hand() -> None:
    a = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    b = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]])
    torch.testing.assert_close(mask_iou(a, b), torch.tensor([[0.5, 0.5, 0.0], [0, 0, 0]]))
    torch.testing.assert_close(masks_iou(a, b[1:]), torch.tensor([0.5, 0.0]))


def test_masks2segments_by_hand() -> None:
    masks = torch.zeros(3, 12, 12)
    masks[0, 2:5, 3:7] = 1
    masks[1, 0:9, 0:9], masks[1, 10:12, 10:12] = 1, 1  # a square, and a smaller one
    masks[1, 4, 8] = 0  # a notch adds corners to the outline of the large one
    largest: list[Any] = masks2segments(masks)
    assert sorted(largest[0].tolist()) == [[3, 2], [3, 4], [6, 2], [6, 4]] and largest[0].dtype == np.float32
    assert largest[1].max() == 8 and largest[2].shape == (0, 2)
    concat = masks2segments(masks, strategy="concat")
    assert len(concat[1]) == len(largest[1]) + 4 and concat[1].max() == 11
    assert np.array_equal(concat[0], largest[0]) and concat[2].shape == (0, 2)
    with pytest.raises(ValueError, match="'longest'; use 'largest' or 'concat'"):
        masks2segments(masks, strategy="longest")
