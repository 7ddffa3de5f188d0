"""Activation checkpointing: recompute the activations of a layer in the backward pass instead of storing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_layer(layer: nn.Module, inputs: Any) -> Any:
    """`layer(inputs)` that stores only inputs and output for the backward pass (Chen et al. 2016, arXiv:1604.06174).

    Gradients and running statistics are the same as without. Layers without parameters are not checkpointed: they
    store too little to be worth a second forward pass.
    """
    if not any(True for _ in layer.parameters()):
        return layer(inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _freeze_running_stats(layer)

    return checkpoint(layer, inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _freeze_running_stats(layer: nn.Module) -> Iterator[None]:
    """Do not update the running statistics of batch norms: the first pass has already counted the batch."""
    norms = [m for m in layer.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    previous = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, previous, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
