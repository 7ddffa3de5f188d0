from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.config.hyp import Hyperparameters
from utils.train.optim import Schedule, build_optimizer, compute_lr_factor, group_parameters


def test_lr_factors_equal_the_reference(shared: Path) -> None:
    golden = json.loads((shared / "reference/golden/schedules.json").read_text())
    linear = [
        compute_lr_factor(e, epochs=100, final=0.01) for e in range(len(golden["linear_lr_factor_100_epochs_lrf_0_01"]))
    ]
    assert linear == pytest.approx(golden["linear_lr_factor_100_epochs_lrf_0_01"])
    values = golden["cosine_lr_factor_100_epochs_lrf_0_01"]
    assert [compute_lr_factor(e, epochs=100, final=0.01, cosine=True) for e in range(len(values))] == pytest.approx(
        values
    )


def test_warm_up_by_hand() -> None:
    schedule = Schedule(Hyperparameters(), epochs=10, batches=50, batch_size=16)  # warm-up 150 iterations
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    optimizer = build_optimizer(model, "SGD", lr=0.01, momentum=0.937, weight_decay=0.1)
    schedule.apply(optimizer, 0)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.0, 0.0]
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.8)
    assert schedule.accumulate(0) == 1
    schedule.apply(optimizer, 75)  # epoch 1, half of the warm-up
    full = 0.01 * (0.9 * 0.99 + 0.01)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([(0.1 + full) / 2, full / 2, full / 2])
    assert schedule.accumulate(75) == 2  # 2.5 rounds to even
    schedule.apply(optimizer, 150)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.01 * (0.7 * 0.99 + 0.01))
    assert (schedule.accumulate(150), schedule.accumulate(499)) == (4, 4)


def test_small_sets_warm_up_for_100_iterations_at_least() -> None:
    assert Schedule(Hyperparameters(), epochs=3, batches=2, batch_size=8).warmup_iterations == 100


@pytest.mark.parametrize(("batch", "scale"), [(16, 1.0), (64, 1.0), (128, 2.0), (24, 24 * 3 / 64)])
def test_weight_decay_follows_the_effective_batch(batch: int, scale: float) -> None:
    assert Schedule(Hyperparameters(), epochs=1, batches=1, batch_size=batch).decay_scale == pytest.approx(scale)


def test_groups_contain_every_parameter_once() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.LayerNorm(4))
    biases, weights, norms = group_parameters(model)
    assert [len(g) for g in (biases, weights, norms)] == [3, 2, 2]
    optimizer = build_optimizer(model, "AdamW", lr=0.1, momentum=0.9, weight_decay=0.5)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.5, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)])
def test_optimizer_kinds(name: str, kind: type) -> None:
    assert isinstance(build_optimizer(nn.Linear(1, 1), name, lr=1, momentum=0.9, weight_decay=0), kind)


def test_floor_accumulation_never_exceeds_the_nominal_batch() -> None:
    nearest, floor = (Schedule(Hyperparameters(), 10, 50, 24, floor=floor) for floor in (False, True))
    assert (nearest.accumulate(499), floor.accumulate(499)) == (3, 2)  # 64 / 24 = 2.67
    assert floor.decay_scale == pytest.approx(24 * 2 / 64)
    assert [floor.accumulate(i) for i in (0, 89, 90, 150)] == [1, 1, 2, 2]  # 1 + 1.67 i / 150 reaches 2 at 90


def test_sgd_without_momentum_is_plain_sgd() -> None:
    optimizer = build_optimizer(nn.Linear(1, 1), "SGD", lr=1, momentum=0, weight_decay=0)
    assert not optimizer.param_groups[0]["nesterov"]
