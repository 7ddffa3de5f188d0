"""Loss of one batch, which may be sharded over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Reduce = Callable[
    [Tensor], Tensor
]  # adds a count over the ranks that share a batch; every rank must call it equally often


def keep_local(count: Tensor) -> Tensor:
    """The `Reduce` of a batch that is not sharded."""
    return count


@dataclass(frozen=True)
class LossResult:
    """Loss of one batch.

    Attributes:
        total: scalar to minimize, the sum of the items times the batch size.
        items: name -> detached scalar on the device, gains applied, mean over the batch. With a batch sharded over
            several ranks, the contribution of this one; their sum is the item of the whole batch.
    """

    total: Tensor
    items: dict[str, Tensor]

    @classmethod
    def from_items(cls, items: Mapping[str, Tensor], batch_size: int | Tensor) -> LossResult:
        """From items with gradients."""
        total = torch.stack(list(items.values())).sum() * batch_size
        return cls(total, {name: value.detach() for name, value in items.items()})


def count_images(preds: Tensor, reduce: Reduce) -> Tensor:
    """Size of the whole batch of which `preds` (B, ...) is the shard of this rank, a scalar on its device."""
    return reduce(preds.new_full((), len(preds), dtype=torch.float32))
