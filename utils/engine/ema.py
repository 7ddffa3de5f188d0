"""Exponential moving average of a model's weights, the copy that is validated and kept."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

DECAY, RAMP = 0.9999, 2000  # the decay grows from 0 to DECAY over a few RAMP updates


def ema_decay(updates: int) -> float:
    """Share of the old average that update number `updates` keeps."""
    return DECAY * (1 - math.exp(-updates / RAMP))


class ModelEMA:
    """Average of all floating-point entries of a state dict; integer entries are copied.

    Args:
        model: the network in training; a detached FP32 copy of it becomes `model`.
        updates: updates already made, for a resumed run.
    """

    def __init__(self, model: nn.Module, updates: int = 0) -> None:
        self.model = deepcopy(model).eval()
        self.model.requires_grad_(False)
        self.updates = updates

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model` after an optimizer step."""
        self.updates += 1
        theirs: dict[str, Any] = model.state_dict()
        floating: list[tuple[Tensor, Tensor]] = []
        for key, ours in self.model.state_dict().items():
            if ours.dtype.is_floating_point:
                floating.append((ours, theirs[key].detach()))
            else:
                ours.copy_(theirs[key])
        torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], 1 - ema_decay(self.updates))
