from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_jobs import build_tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

from utils.segment.loss import ComputeLoss

HYP = {"box": 0.05, "obj": 1.0, "cls": 0.5, "cls_pw": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}
STRIDES = torch.tensor([8.0, 16.0, 32.0])
ANCHORS = torch.tensor(  # yolov5n's, in cells
    [
        [[10.0, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]
) / STRIDES.view(-1, 1, 1)


class Network(nn.Module):
    """The attributes of a segmentation network that the loss reads."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        head: Any = nn.Module()
        head.register_buffer("anchors", ANCHORS)
        head.nl, head.na, head.nc, head.nm, head.stride = 3, 3, num_classes, 32, STRIDES
        self.model, self.hyp = nn.Sequential(head), HYP


def load(shared: Path) -> dict[str, Tensor]:
    return {key: torch.tensor(value) for key, value in np.load(shared / "reference/golden/segment.npz").items()}


@pytest.mark.parametrize("form", ["overlap", "separate"])
def test_compute_loss_against_the_reference(shared: Path, form: str) -> None:
    golden = load(shared)
    compute_loss = ComputeLoss(Network(4), overlap=form == "overlap")
    maps, prototypes = [golden[f"p{i}"].requires_grad_() for i in range(3)], golden["proto"].requires_grad_()
    loss, items = compute_loss((maps, prototypes), golden[f"{form}_targets"], golden[f"{form}_masks"])
    assert loss.shape == (1,) and items.shape == (4,) and not items.requires_grad
    torch.testing.assert_close(loss, golden[f"{form}_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(items, golden[f"{form}_items"], rtol=1e-5, atol=0)
    loss.backward()
    expected = golden[f"{form}_proto_grad"]
    torch.testing.assert_close(prototypes.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert all(level.grad is not None and level.grad[..., -32:].any() for level in maps)
    assert compute_loss.nm == 32


def test_no_targets() -> None:
    maps, prototypes = [torch.randn(2, 3, side, side, 41) for side in (8, 4, 2)], torch.randn(2, 32, 16, 16)
    for overlap, masks in ((True, torch.zeros(2, 16, 16)), (False, torch.zeros(0, 16, 16))):
        loss, items = ComputeLoss(Network(4), overlap=overlap)((maps, prototypes), torch.zeros(0, 6), masks)
        assert items[[0, 1, 3]].tolist() == [0, 0, 0] and items[2] > 0 and loss.isfinite().all()


@pytest.mark.parametrize("overlap", [True, False])
def test_build_targets_numbers_the_masks(overlap: bool) -> None:
    """Rows of anchors that match: classes and boxes are those of the target whose mask is named."""
    rng = torch.Generator().manual_seed(0)
    targets = torch.rand(6, 6, generator=rng) * 0.4 + 0.2
    targets[:, 0], targets[:, 1] = torch.tensor([0, 0, 0, 1, 1, 2]), torch.arange(6) % 4
    maps = [torch.zeros(3, 3, side, side, 41) for side in (16, 8, 4)]
    tcls, _, indices, _, tidxs, xywhn = ComputeLoss(Network(4), overlap=overlap).build_targets(maps, targets)
    first_of_image = torch.tensor([0, 3, 5])
    assert sum(map(len, tidxs)) > 20
    for level in range(3):
        images = indices[level][0]
        rows = tidxs[level] - 1 + first_of_image[images] if overlap else tidxs[level]
        assert torch.equal(targets[rows, 0].long(), images) and torch.equal(targets[rows, 1].long(), tcls[level])
        assert torch.equal(targets[rows, 2:], xywhn[level])


def test_single_mask_loss_by_hand() -> None:
    """Two objects, each pixel of their boxes one by one."""
    rng = torch.Generator().manual_seed(1)
    truth = (torch.rand(2, 6, 8, generator=rng) > 0.5).float()
    coefficients, prototypes = torch.randn(2, 32, generator=rng), torch.randn(32, 6, 8, generator=rng)
    boxes, areas = torch.tensor([[1.0, 0, 5, 4], [2, 2, 8, 6]]), torch.tensor([0.3, 0.5])
    expected = []
    for i, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        logits = torch.stack(
            [(coefficients[i] * prototypes[:, y, x]).sum() for y in range(y1, y2) for x in range(x1, x2)]
        )
        inside = truth[i, y1:y2, x1:x2].flatten()
        expected.append(F.binary_cross_entropy_with_logits(logits, inside, reduction="sum") / 48 / areas[i])
    loss = ComputeLoss(Network(4)).single_mask_loss(truth, coefficients, prototypes, boxes, areas)
    torch.testing.assert_close(loss, (expected[0] + expected[1]) / 2)


def test_training_lowers_the_loss() -> None:
    model: Any = build_tiny_model("segment")
    model.hyp, model.nc, model.names = {**HYP, "obj": 0.3}, 2, {0: "square", 1: "disc"}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    masks, targets = torch.zeros(2, 16, 16), torch.zeros(3, 6)
    for number, (image, value, x, y) in enumerate(((0, 1, 8, 8), (0, 2, 40, 40), (1, 1, 24, 32))):
        images[image, :, y : y + 16, x : x + 16] += 0.7
        masks[image, y // 4 : y // 4 + 4, x // 4 : x // 4 + 4] = value
        targets[number] = torch.tensor([image, number % 2, (x + 8) / 64, (y + 8) / 64, 0.25, 0.25])
    compute_loss = ComputeLoss(model, overlap=True)
    losses = []
    for _ in range(40):
        loss, _ = compute_loss(model(images), targets, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        _, prototypes, raw = model.eval()(images)
        _, items = compute_loss((raw, prototypes), targets, masks)  # as in validation
    assert items.shape == (4,) and items.isfinite().all()
