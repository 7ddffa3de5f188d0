"""Narrow versions of shipped networks, for fast tests."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

SLIM = {"width_multiple": 0.125, "depth_multiple": 0.1}  # replace those of a model YAML
Network = TypeVar("Network", bound=nn.Module)


def randomize_norm_stats(model: Network) -> Network:
    """Set random batch-norm statistics and evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def flatten_tensors(output: Any) -> list[Tensor]:
    """All tensors of a nested output, in order."""
    return [output] if isinstance(output, Tensor) else [t for part in output for t in flatten_tensors(part)]
