"""Magnitude pruning of convolutions (Han et al. 2015, arXiv:1506.02626)."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import prune


def prune_convolutions(model: nn.Module, amount: float) -> int:
    """Set the fraction `amount` of smallest weights of every convolution to zero; biases and norms are unchanged.

    Returns:
        Number of pruned convolutions.

    Raises:
        ValueError: `amount` is not in [0, 1).
    """
    if not 0 <= amount < 1:
        raise ValueError(f"amount {amount:g}: must be at least 0 and below 1")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        prune.l1_unstructured(convolution, "weight", amount)
        prune.remove(convolution, "weight")  # applies the mask to the weights, so state-dict keys do not change
    return len(convolutions)


def compute_sparsity(model: nn.Module) -> float:
    """Fraction of parameters that are zero, 0 to 1."""
    total = sum(parameter.numel() for parameter in model.parameters())
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    return zeros / total if total else 0.0
