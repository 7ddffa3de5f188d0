from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.train.ema import ModelEMA, compute_decay


def test_decay_equals_the_reference(shared: Path) -> None:
    golden = json.loads((shared / "reference/golden/schedules.json").read_text())
    pairs = zip(golden["ema_updates"], golden["ema_decay"], strict=True)
    assert all(compute_decay(updates) == pytest.approx(value) for updates, value in pairs)


def test_update_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, 1.0)
    ema = ModelEMA(model, updates=1999)
    nn.init.constant_(model[0].weight, 3.0)
    model[1].num_batches_tracked += 7
    ema.update(model)
    decay = compute_decay(2000)
    assert ema.updates == 2000
    assert ema.model[0].weight.item() == pytest.approx(decay * 1.0 + (1 - decay) * 3.0)
    assert ema.model[1].num_batches_tracked.item() == 7
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert torch.equal(model[0].weight, torch.tensor([[3.0]])), "the model itself is untouched"
