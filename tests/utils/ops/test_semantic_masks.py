from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils.core.types import Letterbox
from utils.imaging.letterbox import letterbox
from utils.imaging.semantic_classes import SemanticClasses
from utils.ops.semantic_masks import (
    blend_semantic_mask,
    colorize,
    crop_padding,
    decode_semantic_mask,
    resize_and_argmax,
    to_source_ids,
)

CLASSES = SemanticClasses({0: "sea", 1: "land"}, ((0, 0, 200), (10, 100, 20)), source_ids=(7, 30))


def one_hot(semantic_mask: np.ndarray, count: int) -> torch.Tensor:
    return F.one_hot(torch.from_numpy(semantic_mask.astype(np.int64)), count).permute(2, 0, 1).float()


@pytest.mark.parametrize("size_hw", [(75, 131), (20, 90), (40, 60), (13, 17)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equals_resizing_all_logits_at_once(size_hw: tuple[int, int], dtype: torch.dtype) -> None:
    logits = torch.randn(7, 40, 60, generator=torch.Generator().manual_seed(0)).to(dtype)
    plain = F.interpolate(logits[None].float(), size_hw, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    predicted = resize_and_argmax(logits, size_hw)
    assert predicted.dtype == torch.uint8
    assert (predicted == plain).float().mean() > 0.999  # OpenCV rounds its weights differently


def test_logits_are_unchanged_and_equal_scores_take_the_lower_class() -> None:
    logits = torch.zeros(3, 4, 4)
    logits[1, :2] = 1
    logits[2, :2] = 1
    before = logits.clone()
    assert resize_and_argmax(logits, (4, 4)).tolist() == [[1] * 4] * 2 + [[0] * 4] * 2
    assert torch.equal(logits, before)


def test_logits_with_gradients() -> None:
    logits = torch.randn(3, 4, 4, requires_grad=True)
    assert resize_and_argmax(logits, (8, 8)).shape == (8, 8)


@pytest.mark.parametrize("original_hw", [(50, 100), (100, 50), (33, 64), (64, 64), (300, 211)], ids=str)
def test_padding_neither_shifts_nor_leaks(original_hw: tuple[int, int]) -> None:
    """The padding has a class that must not appear in the image."""
    height, width = original_hw
    truth = np.zeros(original_hw, np.uint8)
    truth[height // 3 : height // 2, width // 4 : width // 2] = 1
    fitted, fit = letterbox(truth[..., None] * 200, 64, color=114)
    classes_in_input = np.where(fitted[..., 0] == 114, 2, (fitted[..., 0] > 100).astype(np.uint8))
    left, top = fit.pad_wh
    classes_in_input[:top], classes_in_input[:, :left] = 2, 2
    predicted = decode_semantic_mask(one_hot(classes_in_input, 3), fit).numpy()
    assert predicted.shape == original_hw
    assert (predicted != 2).all()
    rows, columns = np.nonzero(predicted == 1)
    cell = max(1.0, max(original_hw) / 64)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(box, [width // 4, height // 3, width // 2, height // 2], atol=1.5 * cell)


def test_crop_padding_by_hand() -> None:
    fit = Letterbox((50, 100), (0.64, 0.64), (0, 16))
    planes = torch.zeros(2, 64, 64)
    planes[:, 16:48] = 1
    image = crop_padding(planes, fit)
    assert image.shape == (2, 32, 64)
    assert bool((image == 1).all())


def test_an_image_without_padding_at_its_own_size() -> None:
    truth = np.random.default_rng(0).integers(0, 5, (48, 64)).astype(np.uint8)
    predicted = decode_semantic_mask(one_hot(truth, 5), Letterbox((48, 64)))
    np.testing.assert_array_equal(predicted.numpy(), truth)


def test_colors_and_blend_by_hand() -> None:
    semantic_mask = np.array([[0, 1, 255]], np.uint8)
    assert colorize(semantic_mask, CLASSES).tolist() == [[[200, 0, 0], [20, 100, 10], [0, 0, 0]]]
    frame = np.full((1, 3, 3), 100, np.uint8)
    # 0.6 * 100 + 0.4 * color; the pixel without a class stays
    assert blend_semantic_mask(frame, semantic_mask, CLASSES).tolist() == [
        [[140, 60, 60], [68, 100, 64], [100, 100, 100]]
    ]
    assert (frame == 100).all()
    assert blend_semantic_mask(frame[:, :2], semantic_mask[:, :2], CLASSES).shape == (1, 2, 3)


def test_to_source_ids() -> None:
    semantic_mask = np.array([[0, 1, 255]], np.uint8)
    assert to_source_ids(semantic_mask, CLASSES).tolist() == [[7, 30, 255]]
    assert to_source_ids(semantic_mask, SemanticClasses({0: "a", 1: "b"})).tolist() == [[0, 1, 255]]
