"""Shipped graphs made thin, so that tests of networks take no time."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

SLIM = {"width_multiple": 0.125, "depth_multiple": 0.1}  # over those of a model YAML
Network = TypeVar("Network", bound=nn.Module)


def with_moved_norms(model: Network) -> Network:
    """The network in evaluation mode, its batch norms away from their start, where they change nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def tensors(output: Any) -> list[Tensor]:
    """All tensors of a network's output, in order."""
    return [output] if isinstance(output, Tensor) else [t for part in output for t in tensors(part)]
