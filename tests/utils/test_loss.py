from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_jobs import build_tiny_model
from torch import Tensor, nn

from utils import loss
from utils.core.errors import InputError
from utils.loss import BCEBlurWithLogitsLoss, ComputeLoss, FocalLoss, QFocalLoss, smooth_BCE
from utils.losses import assign

HYP = {"box": 0.05, "obj": 1.0, "cls": 0.5, "cls_pw": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}


class Head(nn.Module):
    """The attributes of a detection head that the loss reads."""

    def __init__(self, anchors: Tensor, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors)
        self.nl, self.na, self.nc = len(anchors), anchors.shape[1], num_classes
        self.stride = torch.tensor([8.0, 16.0, 32.0])


class Network(nn.Module):
    def __init__(self, head: nn.Module, hyp: dict[str, float]) -> None:
        super().__init__()
        self.model, self.hyp = nn.Sequential(nn.Conv2d(3, 4, 3), head), hyp


def load(shared: Path, name: str) -> dict[str, Tensor]:
    return {key: torch.tensor(value) for key, value in np.load(shared / f"reference/golden/{name}.npz").items()}


@pytest.mark.parametrize(
    ("file", "settings"), [("loss_default", {}), ("loss_focal_smooth", {"fl_gamma": 1.5, "label_smoothing": 0.1})]
)
def test_compute_loss_against_the_reference(shared: Path, file: str, settings: dict[str, float]) -> None:
    golden = load(shared, file)
    network = Network(Head(golden["anchors"], 5), {**HYP, **settings})
    compute_loss = ComputeLoss(nn.DataParallel(network), autobalance=False)
    p = [golden[f"p{i}"].requires_grad_() for i in range(3)]
    total, items = compute_loss(p, golden["targets"])
    assert total.shape == (1,) and items.shape == (3,) and not items.requires_grad
    torch.testing.assert_close(total, golden["loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(items, golden["items"], rtol=1e-5, atol=0)
    total.backward()
    for i, level in enumerate(p):
        expected = golden[f"grad{i}"]
        torch.testing.assert_close(level.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    _, empty = compute_loss(p, torch.zeros(0, 6))
    torch.testing.assert_close(empty, golden["empty_items"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("padded", [False, True], ids=["cpu", "gpu"])
def test_build_targets_against_the_reference(shared: Path, monkeypatch: pytest.MonkeyPatch, padded: bool) -> None:
    if padded:  # rows of weight 0, as on a GPU
        monkeypatch.setattr(loss, "assign_targets", assign_with_padding)
    golden = load(shared, "loss_default")
    compute_loss = ComputeLoss(Network(Head(golden["anchors"], 5), HYP))
    tcls, tbox, indices, anch = compute_loss.build_targets([golden[f"p{i}"] for i in range(3)], golden["targets"])
    for i in range(3):
        assert torch.equal(tcls[i], golden[f"tcls{i}"])
        torch.testing.assert_close(tbox[i], golden[f"tbox{i}"], rtol=0, atol=1e-5)
        torch.testing.assert_close(anch[i], golden[f"anch{i}"])
        for name, values in zip(("b", "a", "gj", "gi"), indices[i], strict=True):
            assert torch.equal(values, golden[f"{name}{i}"]), (name, i)


def assign_with_padding(targets: Tensor, anchors: Tensor, grids_hw: Any, *, max_ratio: float) -> Any:
    return [assign._assign_level(targets, a, grid_hw, max_ratio) for a, grid_hw in zip(anchors, grids_hw, strict=True)]


def test_build_targets_without_targets() -> None:
    compute_loss = ComputeLoss(Network(Head(torch.ones(3, 3, 2), 5), HYP))
    maps = [torch.zeros(2, 3, side, side, 10) for side in (8, 4, 2)]
    tcls, tbox, indices, anch = compute_loss.build_targets(maps, torch.zeros(0, 6))
    assert [len(rows) for rows in (*tcls, *tbox, *anch)] == [0] * 9
    assert all(len(values) == 0 for level in indices for values in level)


def test_hyp_is_read_at_each_call() -> None:
    hyp: dict[str, Any] = dict(HYP)
    compute_loss = ComputeLoss(Network(Head(torch.ones(3, 3, 2), 5), hyp))
    maps = [torch.zeros(2, 3, side, side, 10) for side in (8, 4, 2)]
    (_, before), hyp["obj"] = compute_loss(maps, torch.zeros(0, 6)), 3.0
    _, after = compute_loss(maps, torch.zeros(0, 6))
    # every cell has the logit 0: a loss of log 2, weighted with 4, 1 and 0.4
    torch.testing.assert_close(before, torch.tensor([0, 5.4 * math.log(2), 0]))
    torch.testing.assert_close(after, torch.tensor([0, 3 * 5.4 * math.log(2), 0]))
    assert (compute_loss.na, compute_loss.nc, compute_loss.nl) == (3, 5, 3)
    assert compute_loss.balance == pytest.approx([4.0, 1.0, 0.4]) and compute_loss.anchors.shape == (3, 3, 2)


class OneTarget(ComputeLoss):
    def build_targets(self, p: Any, targets: Tensor) -> Any:
        return super().build_targets(p, targets[:1])


class SameTargets(ComputeLoss):
    def build_targets(self, p: Any, targets: Tensor) -> Any:
        return super().build_targets(p, targets)


class OwnLoss(ComputeLoss):
    """A subclass with a loss of its own, from the attributes: objectness and classes, but no boxes."""

    def __call__(self, p: Any, targets: Tensor) -> Any:
        classes, _, indices, _ = self.build_targets(p, targets)
        per_class, objectness = torch.zeros(1), torch.zeros(1)
        for level, numbers, cells, weight in zip(p, classes, indices, self.balance, strict=True):
            wanted = torch.full((len(numbers), self.nc), self.cn)
            wanted[range(len(numbers)), numbers] = self.cp
            per_class += self.BCEcls(level[cells][:, 5:], wanted)
            objectness += self.BCEobj(level[..., 4], torch.zeros(level.shape[:4])) * weight
        return objectness * self.hyp["obj"], per_class * self.hyp["cls"]


def test_subclasses_may_build_targets(shared: Path) -> None:
    golden = load(shared, "loss_default")
    network = Network(Head(golden["anchors"], 5), HYP)
    p = [golden[f"p{i}"] for i in range(3)]
    torch.testing.assert_close(SameTargets(network)(p, golden["targets"])[0], golden["loss"], rtol=1e-5, atol=0)
    _, items = OneTarget(network)(p, golden["targets"])
    torch.testing.assert_close(items, ComputeLoss(network)(p, golden["targets"][:1])[1])
    assert not torch.allclose(items, golden["items"], rtol=1e-3)


@pytest.mark.parametrize(
    ("file", "settings"), [("loss_default", {}), ("loss_focal_smooth", {"fl_gamma": 1.5, "label_smoothing": 0.1})]
)
def test_subclasses_may_compute_the_loss(shared: Path, file: str, settings: dict[str, float]) -> None:
    golden = load(shared, file)
    compute_loss = OwnLoss(Network(Head(golden["anchors"], 5), {**HYP, **settings}))
    p = [golden[f"p{i}"] for i in range(3)]
    per_class = compute_loss(p, golden["targets"])[1]
    torch.testing.assert_close(per_class[0], golden["items"][2], rtol=1e-5, atol=0)
    torch.testing.assert_close(compute_loss(p, torch.zeros(0, 6))[0][0], golden["empty_items"][1], rtol=1e-5, atol=0)
    assert (compute_loss.sort_obj_iou, compute_loss.gr, compute_loss.ssi) == (False, 1.0, 0)
    assert ComputeLoss(Network(Head(golden["anchors"], 5), HYP), autobalance=True).ssi == 1


def test_balance_may_be_set() -> None:
    compute_loss = ComputeLoss(Network(Head(torch.ones(3, 3, 2), 5), HYP), autobalance=True)
    maps = [torch.zeros(2, 3, side, side, 10, requires_grad=True) for side in (8, 4, 2)]
    compute_loss.balance = [1.0, 2.0, 3.0]
    _, items = compute_loss(maps, torch.zeros(0, 6))
    torch.testing.assert_close(items[1], torch.tensor(6 * math.log(2)))
    moved = [weight * 0.9999 + 0.0001 / math.log(2) for weight in (1, 2, 3)]
    assert compute_loss.balance == pytest.approx([weight / moved[1] for weight in moved], rel=1e-5)
    compute_loss.balance[0] = 10.0
    assert compute_loss(maps, torch.zeros(0, 6))[1][1] > 10 * math.log(2)


def test_missing_hyperparameters_are_named() -> None:
    network = Network(Head(torch.ones(3, 3, 2), 5), {"box": 0.05, "cls": 0.5})
    with pytest.raises(InputError, match="lacks obj, anchor_t"):
        ComputeLoss(network)
    del network.hyp
    with pytest.raises(InputError, match=r"model\.hyp is not set"):
        ComputeLoss(network)


def test_training_lowers_the_loss() -> None:
    """The steps of a training script: hyp, nc and names on the network, three parameter groups, SGD."""
    model: Any = build_tiny_model()
    model.hyp, model.nc, model.names = {**HYP, "obj": 0.3}, 2, {0: "square", 1: "disc"}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    biases = [m.bias for m in model.modules() if getattr(m, "bias", None) is not None]
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    optimizer = torch.optim.SGD(biases, lr=0.02, momentum=0.9, nesterov=True)
    optimizer.add_param_group({"params": weights, "weight_decay": 5e-4})
    optimizer.add_param_group({"params": [norm.weight for norm in norms], "weight_decay": 0.0})
    compute_loss = ComputeLoss(model)
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 64, 64, generator=rng) * 0.2
    targets = torch.zeros(4, 6)
    for number, (x, y) in enumerate(((8, 8), (32, 16), (24, 32), (40, 40))):
        images[number, :, y : y + 16, x : x + 16] += 0.7
        targets[number] = torch.tensor([number, number % 2, (x + 8) / 64, (y + 8) / 64, 0.25, 0.25])
    model.train()
    losses = []
    for _ in range(30):
        loss, items = compute_loss(model(images), targets)
        torch.testing.assert_close(loss, 4 * items.sum(dim=0, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    model.eval()
    with torch.no_grad():
        _, raw = model(images)
        _, items = compute_loss([level.half() for level in raw], targets)  # as in validation in half precision
    assert items.dtype == torch.float32 and items.isfinite().all()


def test_smooth_bce() -> None:
    assert smooth_BCE() == pytest.approx((0.95, 0.05))
    assert smooth_BCE(eps=0.0) == (1.0, 0.0)


def cross_entropy(logit: float, target: float) -> tuple[float, float]:
    """Probability and cross-entropy of one logit."""
    p = 1 / (1 + math.exp(-logit))
    return p, -(target * math.log(p) + (1 - target) * math.log(1 - p))


CASES = [(2.0, 1.0), (-1.0, 1.0), (0.5, 0.0), (3.0, 0.0), (1.0, 0.6)]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_focal_losses_by_hand(reduction: str) -> None:
    pred, true = torch.tensor(CASES).T
    focal, quality = [], []
    for logit, t in CASES:
        p, loss = cross_entropy(logit, t)
        alpha = 0.25 * t + 0.75 * (1 - t)
        focal.append(alpha * (1 - (t * p + (1 - t) * (1 - p))) ** 2 * loss)
        quality.append(alpha * abs(t - p) ** 2 * loss)
    for kind, values in ((FocalLoss, focal), (QFocalLoss, quality)):
        expected = torch.tensor(values)
        expected = {"mean": expected.mean(), "sum": expected.sum(), "none": expected}[reduction]
        found = kind(nn.BCEWithLogitsLoss(reduction=reduction), gamma=2.0)(pred, true)
        torch.testing.assert_close(found, expected)
    assert FocalLoss(nn.BCEWithLogitsLoss()).gamma == 1.5


def test_blurred_cross_entropy_by_hand() -> None:
    pred, true = torch.tensor(CASES).T
    expected = 0.0
    for logit, t in CASES:
        p, loss = cross_entropy(logit, t)
        expected += loss * (1 - math.exp((p - t - 1) / 0.1)) / len(CASES)
    assert BCEBlurWithLogitsLoss(alpha=0.1)(pred, true).item() == pytest.approx(expected, rel=1e-5)
    confident = BCEBlurWithLogitsLoss()(torch.tensor([12.0]), torch.zeros(1))
    assert confident < 0.01  # a plain cross-entropy would be 12
    with pytest.raises(ValueError, match="above 0"):
        BCEBlurWithLogitsLoss(alpha=0)
