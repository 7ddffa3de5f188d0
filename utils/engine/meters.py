"""Means of loss items, read from the device seldom."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from utils.distributed import all_sum, gather_bytes
from utils.errors import InputError


class NotFiniteError(InputError):
    """A loss has become infinite or NaN."""


class LossMeter:
    """Means of loss items over an epoch or a split, read from the device only when `read` is called.

    Steps may bring different items; each mean is that over the steps that brought it.

    Args:
        names: names the means are given under, in the order in which the items come first.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.totals: dict[tuple[str, ...], tuple[Tensor, int]] = {}  # by item names: sums of the items, steps
        self.unread: list[tuple[Tensor, list[str]]] = []

    def add(self, items: Mapping[str, Tensor], paths: list[str]) -> None:
        """Take in a step's items, scalars, and the files they came from."""
        stacked = torch.stack([value.detach().float() for value in items.values()])
        total, count = self.totals.get(tuple(items), (torch.zeros_like(stacked), 0))
        self.totals[tuple(items)] = (total + stacked, count + 1)
        self.unread.append((stacked, paths))

    def means(self) -> dict[str, float]:
        """Means so far of this process; zeros before the first step."""
        return self._named({items: (total.cpu(), count) for items, (total, count) in self.totals.items()})

    def gathered_means(self) -> dict[str, float]:
        """Means over the steps of all processes, each of which had steps of its own. Every process must call it."""
        own = [[list(items), total.tolist(), count] for items, (total, count) in self.totals.items()]
        joined: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        for part in gather_bytes(json.dumps(own).encode()):
            for items, total, count in json.loads(part):
                earlier, steps = joined.get(tuple(items), (torch.zeros(len(total)), 0))
                joined[tuple(items)] = (earlier + torch.tensor(total), steps + count)
        return self._named(joined)

    def read(self) -> dict[str, float]:
        """Means so far; of steps that several processes share, the items are those of all. All must call it.

        Raises:
            NotFiniteError: a loss is not finite; names the files of the first such step.
        """
        rows = torch.stack([row for row, _ in self.unread]).tolist() if self.unread else []
        for row, (_, paths) in zip(rows, self.unread, strict=True):
            if not all(map(math.isfinite, row)):
                files = ", ".join(dict.fromkeys(paths))
                raise NotFiniteError(
                    f"the loss is not finite on the batch of {files}; look at these labels and pictures, lower lr0, "
                    "or train with --amp off; last.pt holds the state before this epoch"
                )
        self.unread.clear()
        return self._named({items: (all_sum(total.cpu()), count) for items, (total, count) in self.totals.items()})

    def _named(self, totals: Mapping[tuple[str, ...], tuple[Tensor, int]]) -> dict[str, float]:
        """The means of the sums, under the names of the columns."""
        if not totals:
            return dict.fromkeys(self.names, 0.0)
        values = torch.cat([total / count for total, count in totals.values()]).tolist()
        return dict(zip(self.names, values, strict=True))
