"""Means of loss items, read from the device seldom."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from utils.core.distributed import all_sum, gather_bytes, is_main, rank, world_size
from utils.core.errors import InputError


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
        self.totals[tuple(items)] = (total.to(stacked) + stacked, count + 1)
        self.unread.append((stacked, paths))

    def state(self) -> list[str]:
        """The sums of every process, as text that gives them back to the last bit. Every process must call it."""
        own = [[list(items), total.tolist(), count] for items, (total, count) in self.totals.items()]
        return [part.decode() for part in gather_bytes(json.dumps(own).encode())]

    def load_state(self, state: Sequence[str]) -> None:
        """Go on from `state()`; if that is of another number of processes, the first has the sums of all."""
        if len(state) != world_size():
            joined = _joined(state)
            own = joined if is_main() else {items: (0 * total, count) for items, (total, count) in joined.items()}
        else:
            own = _joined([state[rank()]])
        self.totals = own

    def means(self) -> dict[str, float]:
        """Means so far of this process; zeros before the first step."""
        return self._named({items: (total.cpu(), count) for items, (total, count) in self.totals.items()})

    def gathered_means(self) -> dict[str, float]:
        """Means over the steps of all processes, each of which had steps of its own. Every process must call it."""
        return self._named(_joined(self.state(), own_steps=True))

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
                    f"the loss is not finite on the batch of {files}; look at these labels and images, lower lr0, "
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


def _joined(states: Sequence[str], *, own_steps: bool = False) -> dict[tuple[str, ...], tuple[Tensor, int]]:
    """The sums of several processes together, and their steps: the same ones, or each its own, which add up."""
    joined: dict[tuple[str, ...], tuple[Tensor, int]] = {}
    for state in states:
        for items, total, count in json.loads(state):
            earlier, steps = joined.get(tuple(items), (torch.zeros(len(total)), 0))
            joined[tuple(items)] = (earlier + torch.tensor(total), steps + count if own_steps else count)
    return joined
