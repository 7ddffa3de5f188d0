from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.config.hyp import Hyperparameters
from utils.losses import assign, detection
from utils.losses.detection import DetectionLoss, get_level_balance, scale_gains

ANCHORS = torch.tensor([[[1.25, 1.625], [2.0, 3.75]], [[1.9, 3.8], [3.9, 2.8]]])


def build(num_classes: int = 2, *, autobalance: bool = False, **settings: float) -> DetectionLoss:
    hyp = Hyperparameters(**settings)
    return DetectionLoss(anchors=ANCHORS, strides=[8, 16], num_classes=num_classes, hyp=hyp, autobalance=autobalance)


def maps(num_classes: int = 2, *, seed: int = 0) -> list[Tensor]:
    """Raw output of two levels for two images of 48x64 pixels."""
    rng = torch.Generator().manual_seed(seed)
    shapes = ((2, 2, 6, 8, 5 + num_classes), (2, 2, 3, 4, 5 + num_classes))
    return [torch.randn(shape, generator=rng).requires_grad_() for shape in shapes]


def some_targets(count: int = 12, *, seed: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    targets = torch.rand(count, 6, generator=rng) * torch.tensor([1, 1, 1, 1, 0.5, 0.5]) + 0.01
    targets[:, 0] = torch.arange(count) % 2
    targets[:, 1] = torch.arange(count) // 2 % 2
    return targets


@pytest.mark.parametrize(
    ("file", "settings"), [("default", {}), ("focal_smooth", {"fl_gamma": 1.5, "label_smoothing": 0.1})]
)
def test_against_the_original(shared: Path, file: str, settings: dict[str, float]) -> None:
    golden = {k: torch.tensor(v) for k, v in np.load(shared / f"reference/golden/loss_{file}.npz").items()}
    hyp = Hyperparameters(**settings)
    loss = DetectionLoss(anchors=golden["anchors"], strides=[8, 16, 32], num_classes=5, hyp=hyp)
    raw = [golden[f"p{i}"].requires_grad_() for i in range(3)]
    result = loss(raw, golden["targets"])
    result.total.backward()
    torch.testing.assert_close(result.total, golden["loss"][0], rtol=1e-5, atol=0)
    items = torch.stack([result.items[name] for name in ("box", "obj", "cls")])
    torch.testing.assert_close(items, golden["items"], rtol=1e-5, atol=0)
    for i, level in enumerate(raw):
        gradient = golden[f"grad{i}"]
        assert level.grad is not None
        torch.testing.assert_close(level.grad, gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())
    empty = loss(raw, torch.zeros(0, 6)).items
    torch.testing.assert_close(torch.stack(list(empty.values())), golden["empty_items"], rtol=1e-5, atol=0)


def test_perfect_prediction_has_no_loss() -> None:
    """One target in the middle of a cell, predicted exactly; logits of 20 mean certainty."""
    raw = [torch.full((1, 2, 6, 8, 7), -20.0), torch.full((1, 2, 3, 4, 7), -20.0)]
    anchor = ANCHORS[0, 0]
    raw[0][0, 0, 2, 3] = torch.tensor([0.0, 0.0, 0.0, 0.0, 20.0, 20.0, -20.0])  # xy 0.5, wh = anchor
    target = torch.tensor([[0, 0, 3.5 / 8, 2.5 / 6, anchor[0] / 8, anchor[1] / 6]])
    result = build(anchor_t=1.3)(raw, target)
    assert result.total.item() == pytest.approx(0, abs=1e-5)


def test_total_is_the_sum_of_the_items_times_the_batch() -> None:
    result = build()(maps(), some_targets())
    assert result.total.item() == pytest.approx(2 * sum(v.item() for v in result.items.values()), rel=1e-6)
    assert list(result.items) == ["box", "obj", "cls"]
    assert not any(v.requires_grad for v in result.items.values()) and result.total.requires_grad


def test_no_targets_is_finite_and_differentiable() -> None:
    raw = maps()
    result = build()(raw, torch.zeros(0, 6))
    result.total.backward()
    assert result.items["box"].item() == 0 and result.items["cls"].item() == 0
    assert all(level.grad is not None and level.grad.isfinite().all() for level in raw)
    assert raw[0].grad is not None and (raw[0].grad[..., 4] != 0).all() and (raw[0].grad[..., :4] == 0).all()


def test_one_class_has_no_class_loss() -> None:
    targets = some_targets()
    targets[:, 1] = 0
    assert build(1)(maps(1), targets).items["cls"].item() == 0


def test_padded_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded rows of weight 0, as on a GPU, give the loss and gradients of the CPU."""
    results = []
    for padded in (False, True):
        if padded:
            monkeypatch.setattr(assign.LevelTargets, "drop_padding", lambda level: level)
        raw = maps()
        result = build(fl_gamma=1.5)(raw, some_targets(40))
        results.append((result.total, *torch.autograd.grad(result.total, raw)))
    for plain, with_padding in zip(*results, strict=True):
        torch.testing.assert_close(with_padding, plain, rtol=1e-5, atol=1e-6)


def test_later_target_sets_objectness_of_a_shared_cell() -> None:
    """Two targets of one cell and anchor: the objectness target is the CIoU of the later one."""
    first, second = [0, 0, 3.5 / 8, 2.5 / 6, 0.16, 0.27], [0, 0, 3.5 / 8, 2.5 / 6, 0.3, 0.5]
    alone = [build(anchor_t=4.0)(maps(), torch.tensor([t])).items["obj"] for t in (first, second)]
    both = build()(maps(), torch.tensor([first, second])).items["obj"]
    assert alone[0] != alone[1]
    torch.testing.assert_close(both, alone[1])


def test_autocast_and_half_maps_are_computed_in_float32() -> None:
    raw = [level.detach().bfloat16() for level in maps()]
    plain = build()([level.float() for level in raw], some_targets()).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build()(raw, some_targets()).total == plain


def test_autobalance_is_updated_in_training_and_saved() -> None:
    loss = build(autobalance=True)
    with torch.no_grad():
        loss(maps(), some_targets())
    assert loss.balance.tolist() == get_level_balance(2)
    parts = build(obj=1.0)
    before = loss.balance.clone()
    images = torch.tensor(float(len(maps()[0])))
    obj = torch.stack(
        [parts._level_loss(m, r, r.weights.sum(), images)[1] for m, r in zip(maps(), _rows(), strict=True)]
    ).detach()
    loss(maps(), some_targets())
    moved = before * 0.9999 + 0.0001 / obj
    torch.testing.assert_close(loss.balance, moved / moved[1])  # stride 16 is the second level
    other = build(autobalance=True)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.balance, loss.balance)
    assert build().state_dict() == {}


def _rows() -> list[Any]:
    return assign.assign_targets(some_targets(), ANCHORS, [(6, 8), (3, 4)], max_ratio=4.0)


def test_gains_scale_with_levels_classes_and_size() -> None:
    gains = scale_gains(Hyperparameters(box=0.05, cls=0.5, obj=1.0, cls_pw=0.7), 4, 20, 1280)
    assert (gains.box, gains.cls, gains.obj) == pytest.approx((0.05 * 0.75, 0.5 * 0.75 * 0.25, 0.75 * 4))
    assert gains.cls_pw == 0.7


def test_positive_weights_scale_their_items() -> None:
    plain, heavy = (build(**kw)(maps(), some_targets()).items for kw in ({}, {"obj_pw": 2.0, "cls_pw": 2.0}))
    assert heavy["obj"] > plain["obj"] and heavy["cls"] > plain["cls"] and heavy["box"] == plain["box"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees_and_never_synchronizes() -> None:
    raw, targets = maps(), some_targets(40)
    expected = build(autobalance=True)(raw, targets)
    expected_gradients = torch.autograd.grad(expected.total, raw)
    on_gpu = [level.detach().cuda().requires_grad_() for level in raw]
    loss, gpu_targets = build(autobalance=True).cuda(), targets.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = loss(on_gpu, gpu_targets)
        gradients = torch.autograd.grad(result.total, on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result.total.cpu(), expected.total.detach(), rtol=1e-5, atol=0)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-6)


def test_balance_of_unusual_heads() -> None:
    assert detection.get_level_balance(3) == [4.0, 1.0, 0.4]
    assert detection.get_level_balance(1) == [4.0]
    assert detection.get_level_balance(6) == [4.0, 1.0, 0.25, 0.06, 0.02, 0.02]
