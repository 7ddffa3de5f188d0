from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.config.hyp import Hyperparameters
from utils.losses import assign, segmentation
from utils.losses.detection import DetectionLoss
from utils.losses.segmentation import SegmentationLoss, merge_masks, resize_masks

ANCHORS = torch.tensor([[[1.25, 1.625], [2.0, 3.75]], [[1.9, 3.8], [3.9, 2.8]]])
GOLDEN_ANCHORS = torch.tensor(  # yolov5n's, in cells
    [
        [[10.0, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]
) / torch.tensor([8.0, 16, 32]).view(-1, 1, 1)


def build(num_classes: int = 2) -> SegmentationLoss:
    hyp = Hyperparameters()
    return SegmentationLoss(DetectionLoss(anchors=ANCHORS, strides=[8, 16], num_classes=num_classes, hyp=hyp))


def some_batch(seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Logits of two levels with three coefficients, prototypes, targets and masks of two images of 48x64 pixels."""
    rng = torch.Generator().manual_seed(seed)
    shapes = ((2, 2, 6, 8, 10), (2, 2, 3, 4, 10))
    raw = [torch.randn(shape, generator=rng).requires_grad_() for shape in shapes]
    prototypes = torch.randn(2, 3, 12, 16, generator=rng).requires_grad_()
    targets = torch.rand(9, 6, generator=rng) * torch.tensor([1, 1, 0.8, 0.8, 0.6, 0.6]) + 0.1
    targets[:, 0], targets[:, 1] = torch.arange(9) // 5, torch.arange(9) % 2
    masks = torch.rand(9, 12, 16, generator=rng) > 0.5
    return raw, prototypes, targets, masks


@pytest.mark.parametrize("form", ["overlap", "separate"])
@pytest.mark.parametrize("on_gpu", [False, True], ids=["target-groups", "image-groups"])
def test_against_the_original(shared: Path, monkeypatch: pytest.MonkeyPatch, form: str, on_gpu: bool) -> None:
    if on_gpu:
        use_gpu_path(monkeypatch)
    golden = {k: torch.tensor(v) for k, v in np.load(shared / "reference/golden/segment.npz").items()}
    detection = DetectionLoss(anchors=GOLDEN_ANCHORS, strides=[8, 16, 32], num_classes=4, hyp=Hyperparameters())
    masks = golden[f"{form}_masks"]
    masks = masks.to(torch.int16) if form == "overlap" else masks > 0
    prototypes = golden["proto"].requires_grad_()
    raw = [golden[f"p{i}"].requires_grad_() for i in range(3)]
    result = SegmentationLoss(detection)(raw, prototypes, golden[f"{form}_targets"], masks)
    result.total.backward()
    torch.testing.assert_close(result.total, golden[f"{form}_loss"][0], rtol=1e-5, atol=0)
    assert list(result.items) == ["box", "seg", "obj", "cls"]
    torch.testing.assert_close(torch.stack(list(result.items.values())), golden[f"{form}_items"], rtol=1e-5, atol=0)
    gradient = golden[f"{form}_proto_grad"]
    torch.testing.assert_close(prototypes.grad, gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())


def use_gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded rows, and whole images in chunks instead of boxes."""
    monkeypatch.setattr(assign.LevelTargets, "drop_padding", lambda level: level)
    monkeypatch.setattr(segmentation, "_iter_target_groups", segmentation._iter_image_groups)
    monkeypatch.setattr(segmentation, "MAX_GROUP_PIXELS", 4096)


def plain_mask_loss(
    loss: SegmentationLoss, raw: list[Tensor], prototypes: Tensor, targets: Tensor, masks: Tensor
) -> Tensor:
    """The mask loss item, row by row, by autograd."""
    _, positives = loss.detection.compute_items(raw, targets)
    _, _, height, width = prototypes.shape
    y, x = torch.arange(height)[:, None], torch.arange(width)
    total = torch.zeros(())
    for level in positives:
        owners = targets[level.rows.targets, 0].long()
        for target, coefficients in zip(level.rows.targets.tolist(), level.extra, strict=True):
            image = int(targets[target, 0])
            cx, cy, w, h = (targets[target, 2:] * torch.tensor([width, height, width, height])).tolist()
            logits = torch.einsum("c,chw->hw", coefficients, prototypes[image])
            entropy = F.binary_cross_entropy_with_logits(logits, masks[target].float(), reduction="none")
            inside = (x >= cx - w / 2) & (x < cx + w / 2) & (y >= cy - h / 2) & (y < cy + h / 2)
            total = total + (entropy * inside).mean() / (w * h / width / height) / (owners == image).sum()
    return total * loss.detection.hyp.box / len(prototypes)


@pytest.mark.parametrize("on_gpu", [False, True], ids=["target-groups", "image-groups"])
def test_value_and_gradients_equal_autograd(monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    raw, prototypes, targets, masks = some_batch()
    loss = build()
    plain = plain_mask_loss(loss, raw, prototypes, targets, masks)
    expected = torch.autograd.grad(plain * 2, [*raw, prototypes])
    if on_gpu:
        use_gpu_path(monkeypatch)
    result = loss(raw, prototypes, targets, masks)
    torch.testing.assert_close(result.items["seg"], plain.detach(), rtol=1e-5, atol=1e-7)
    gradients = torch.autograd.grad(result.total, [*raw, prototypes])
    for level, expected_level in zip(gradients[:2], expected[:2], strict=True):
        torch.testing.assert_close(level[..., 7:], expected_level[..., 7:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[2], expected[2], rtol=1e-4, atol=1e-6)


def test_both_forms_of_masks_without_overlap_have_the_same_loss() -> None:
    raw, prototypes, targets, _ = some_batch()
    masks = torch.zeros(9, 12, 16, dtype=torch.bool)
    for number in range(9):
        masks[number, number] = True  # one row each
    packed = merge_masks(masks, targets, 2)
    assert packed.shape == (2, 12, 16) and packed.dtype == torch.int16
    assert packed[1, 5].unique().tolist() == [1]  # the first object of the second image
    assert build()(raw, prototypes, targets, masks).total == build()(raw, prototypes, targets, packed).total


def test_small_masks_are_merged_over_large_ones() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 1:3, 1:3], masks[1] = True, True
    packed = merge_masks(masks, torch.zeros(2, 6), 1)
    assert packed[0].tolist() == [[2, 2, 2, 2], [2, 1, 1, 2], [2, 1, 1, 2], [2, 2, 2, 2]]


def test_no_targets_is_finite_and_differentiable() -> None:
    raw, prototypes, _, _ = some_batch()
    for masks in (torch.zeros(0, 12, 16, dtype=torch.bool), torch.zeros(2, 12, 16, dtype=torch.int16)):
        result = build()(raw, prototypes, torch.zeros(0, 6), masks)
        assert result.items["seg"] == 0
        gradients = torch.autograd.grad(result.total, [*raw, prototypes])
        assert all(gradient.isfinite().all() for gradient in gradients) and (gradients[2] == 0).all()


def test_masks_are_resized_to_the_prototypes() -> None:
    raw, prototypes, targets, masks = some_batch()
    fine = masks.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    assert torch.equal(resize_masks(fine, (12, 16)), masks)
    assert build()(raw, prototypes, targets, fine).total == build()(raw, prototypes, targets, masks).total


def test_half_precision_is_computed_in_float32() -> None:
    raw, prototypes, targets, masks = some_batch()
    halved = [level.detach().bfloat16() for level in raw], prototypes.detach().bfloat16()
    plain = build()([level.float() for level in halved[0]], halved[1].float(), targets, masks).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build()(*halved, targets, masks).total == plain
