"""Optimizer with the three parameter groups of the recipe, and its schedule as a pure function of the iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.config.hyp import Hyperparameters
from utils.train.muon import Muon

FUSED_DEVICES = ("cpu", "cuda")  # one kernel for all parameters: 4 instead of 9 ms a step for yolov5n on one core


def build_optimizer(
    model: nn.Module, name: str, *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer over biases, weights, norm weights, in this order; the weights decay, SGD is Nesterov's."""
    biases, weights, norms = group_parameters(model)
    groups = [
        {"params": biases, "weight_decay": 0.0},
        {"params": weights, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    fused = all(p.device.type in FUSED_DEVICES for p in model.parameters())
    if name == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if name == "RMSProp":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum)
    kinds: dict[str, Any] = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "Muon": Muon}
    optimizer: torch.optim.Optimizer = kinds[name](groups, lr=lr, betas=(momentum, 0.999), fused=fused)
    return optimizer


def group_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """All parameters as biases, decayed weights and weights of normalization layers, each once."""
    norm_layers = tuple(kind for kind in vars(nn).values() if isinstance(kind, type) and "Norm" in kind.__name__)
    biases, weights, norms = [], [], []
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if key == "bias":
                biases.append(parameter)
            elif isinstance(module, norm_layers):
                norms.append(parameter)
            else:
                weights.append(parameter)
    return biases, weights, norms


def compute_lr_factor(epoch: float, *, epochs: int, final: float, cosine: bool = False) -> float:
    """Share of the first learning rate in `epoch`: from 1 down to `final`, linear or as half a cosine."""
    done = epoch / epochs
    if cosine:
        return 1 - (1 - final) * (1 - math.cos(math.pi * done)) / 2
    return (1 - done) * (1 - final) + final


@dataclass(frozen=True)
class Schedule:
    """Learning rates, momentum and accumulation of every iteration; it has no state, so a resumed run needs none.

    Attributes:
        hyp: lr0, lrf, momentum and the warm-up numbers.
        epochs: length of the run.
        batches: batches in an epoch.
        batch_size: images in a batch.
        cosine: shape of the decay.
        floor: never accumulate more than the nominal batch; otherwise the nearest whole number of batches.
    """

    hyp: Hyperparameters
    epochs: int
    batches: int
    batch_size: int
    cosine: bool = False
    floor: bool = False

    @property
    def warmup_iterations(self) -> int:
        """Iterations of the warm-up."""
        return max(round(self.hyp.warmup_epochs * self.batches), round(self.hyp.warmup_iterations))

    @property
    def decay_scale(self) -> float:
        """Factor of the weight decay, which is given for the nominal batch."""
        nominal = self.hyp.nominal_batch
        return self.batch_size * self._round(nominal / self.batch_size) / nominal

    def compute_factor(self, epoch: int) -> float:
        """Share of lr0 in `epoch` after warm-up."""
        return compute_lr_factor(epoch, epochs=self.epochs, final=self.hyp.lrf, cosine=self.cosine)

    def accumulate(self, iteration: int) -> int:
        """Batches whose gradients are accumulated for one step."""
        nominal = self.hyp.nominal_batch / self.batch_size
        if iteration <= self.warmup_iterations > 0:
            nominal = float(np.interp(iteration, [0, self.warmup_iterations], [1, nominal]))
        return self._round(nominal)

    def _round(self, batches: float) -> int:
        return max(math.floor(batches) if self.floor else round(batches), 1)

    def apply(self, optimizer: torch.optim.Optimizer, iteration: int) -> None:
        """Set the rates of a global iteration (epoch * batches + batch)."""
        epoch = iteration // self.batches
        full = self.hyp.lr0 * self.compute_factor(epoch)
        done = min(iteration / self.warmup_iterations, 1.0) if self.warmup_iterations else 1.0
        momentum = self.hyp.warmup_momentum + done * (self.hyp.momentum - self.hyp.warmup_momentum)
        for number, group in enumerate(optimizer.param_groups):
            start = self.hyp.warmup_bias_lr if number == 0 else 0.0
            group["lr"] = start + done * (full - start)
            if "momentum" in group:
                group["momentum"] = momentum  # Adam's betas stay: the recipe warms up momentum only
