from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from utils.engine.amp import boxes_agree, checked_amp


class Boxes(nn.Module):
    """Stands in for a detector: gives one box, moved by `shift` where autocast is on."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, images: Tensor) -> tuple[Tensor]:
        moved = self.shift if torch.is_autocast_enabled("cpu") else 0.0
        return (torch.tensor([[[100.0 + moved, 100, 20, 20, 0.9]]]),)


@pytest.mark.parametrize(("shift", "kept"), [(5.0, True), (60.0, False), (float("nan"), False)])
def test_amp_is_kept_where_boxes_agree(shift: float, kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    model = Boxes(shift).train()
    found = checked_amp(model, torch.bfloat16, torch.device("cpu"))
    assert found == (torch.bfloat16 if kept else None)
    assert model.training


def test_off_stays_off() -> None:
    assert checked_amp(Boxes(0), None, torch.device("cpu")) is None


def test_only_the_best_boxes_count() -> None:
    exact = torch.zeros(200, 5)
    exact[:, 4] = torch.linspace(1, 0, 200)
    mixed = exact.clone()
    mixed[150, 0] = 1000
    assert boxes_agree(exact, mixed)
    mixed[50, 0] = 1000
    assert not boxes_agree(exact, mixed)
