"""Exponential moving average (EMA) of a model's weights, which is validated and saved."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

DECAY, RAMP = 0.9999, 2000  # the decay grows from 0 to DECAY over a few RAMP updates


def compute_decay(updates: int, decay: float = DECAY, ramp: float = RAMP) -> float:
    """Decay of update number `updates`."""
    return decay * (1 - math.exp(-updates / ramp))


class ModelEMA:
    """Average of all floating-point entries of a state dict; integer entries are copied.

    Args:
        model: the network in training; a detached FP32 copy of it becomes `model`.
        updates: number of earlier updates, of a resumed run.
        decay, ramp: highest decay, and the updates over which it grows.
    """

    def __init__(self, model: nn.Module, updates: int = 0, *, decay: float = DECAY, ramp: float = RAMP) -> None:
        self.model = deepcopy(model).eval()
        self.model.requires_grad_(False)
        self.updates, self.max_decay, self.ramp = updates, decay, ramp
        self._source: nn.Module | None = None
        self._averaged: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._copied: tuple[list[Tensor], list[Tensor]] = ([], [])

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model` after an optimizer step."""
        if model is not self._source:
            self._pair_with(model)
        self.updates += 1
        torch._foreach_lerp_(*self._averaged, 1 - compute_decay(self.updates, self.max_decay, self.ramp))
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)

    def _pair_with(self, model: nn.Module) -> None:
        """Pair the tensors of both state dicts, once: training changes them in place."""
        weights: dict[str, Tensor] = model.state_dict()
        pairs = [(average, weights[key].detach()) for key, average in self.model.state_dict().items()]
        floating = [pair for pair in pairs if pair[0].dtype.is_floating_point]
        whole = [pair for pair in pairs if not pair[0].dtype.is_floating_point]
        self._averaged = ([a for a, _ in floating], [b for _, b in floating])
        self._copied = ([a for a, _ in whole], [b for _, b in whole])
        self._source = model
