"""Activation checkpointing: a layer's inner maps are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(layer: nn.Module, inputs: Any) -> Any:
    """`layer(inputs)`, of which only inputs and output are kept (Chen et al. 2016, arXiv:1604.06174).

    Gradients and running statistics are the same as without. A layer without parameters is called as it is: it has
    nothing inside that would be worth the second pass.
    """
    if not any(True for _ in layer.parameters()):
        return layer(inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _norms_at_rest(layer)

    return checkpoint(layer, inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _norms_at_rest(layer: nn.Module) -> Iterator[None]:
    """Have batch norms that train leave their running statistics alone: the first pass has counted the batch."""
    norms = [m for m in layer.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the batch has no share in the averages
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
