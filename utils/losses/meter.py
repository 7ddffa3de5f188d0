"""Running means of loss items."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from utils.core.distributed import all_gather_bytes, all_reduce_sum, get_rank, get_world_size, is_main_process
from utils.core.errors import InputError


class NotFiniteError(InputError):
    """A loss is infinite or NaN."""


class LossMeter:
    """Means of loss items over an epoch or a split, copied from the device only when read.

    Steps may have different items; the mean of an item is over the steps that have it.

    Args:
        names: names of the means, in the order in which items first appear.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.totals: dict[tuple[str, ...], tuple[Tensor, int]] = {}  # item names -> sums of the items, number of steps
        self.unread: list[tuple[Tensor, list[str]]] = []

    def add(self, items: Mapping[str, Tensor], paths: list[str]) -> None:
        """Add the scalar items of a step and the image files of its batch."""
        stacked = torch.stack([value.detach().float() for value in items.values()])
        total, count = self.totals.get(tuple(items), (torch.zeros_like(stacked), 0))
        self.totals[tuple(items)] = (total.to(stacked) + stacked, count + 1)
        self.unread.append((stacked, paths))

    def state(self) -> list[str]:
        """The sums of every process as text, bit-exact. Every process must call it."""
        totals = [[list(items), total.tolist(), count] for items, (total, count) in self.totals.items()]
        return [part.decode() for part in all_gather_bytes(json.dumps(totals).encode())]

    def load_state(self, state: Sequence[str]) -> None:
        """Restore `state()`; for another number of processes, the main process gets all sums."""
        if len(state) != get_world_size():
            totals = _merge_states(state)
            if not is_main_process():
                totals = {items: (0 * total, count) for items, (total, count) in totals.items()}
        else:
            totals = _merge_states([state[get_rank()]])
        self.totals = totals

    def gather_means(self) -> dict[str, float]:
        """Means over the steps of all processes, which had different steps. Every process must call it."""
        return self._to_means(_merge_states(self.state(), add_steps=True))

    def read(self) -> dict[str, float]:
        """Means over all processes, which shared the batch of each step. Every process must call it.

        Raises:
            NotFiniteError: a loss is not finite; the message names the files of the first such step.
        """
        rows = torch.stack([row for row, _ in self.unread]).tolist() if self.unread else []
        for row, (_, paths) in zip(rows, self.unread, strict=True):
            if not all(map(math.isfinite, row)):
                files = ", ".join(dict.fromkeys(paths))
                raise NotFiniteError(
                    f"the loss is not finite on the batch of {files}; check these labels and images, lower lr0 "
                    "or train with --amp off; last.pt has the state before this epoch"
                )
        self.unread.clear()
        totals = {items: (all_reduce_sum(total.cpu()), count) for items, (total, count) in self.totals.items()}
        return self._to_means(totals)

    def _to_means(self, totals: Mapping[tuple[str, ...], tuple[Tensor, int]]) -> dict[str, float]:
        if not totals:
            return dict.fromkeys(self.names, 0.0)
        values = torch.cat([total / count for total, count in totals.values()]).tolist()
        if len(values) != len(self.names):
            raise InputError(
                f"losses {', '.join(name[:20] for items in totals for name in items)} instead of "
                f"{', '.join(self.names)}: the run was resumed from a damaged checkpoint; start with --weights"
            )
        return dict(zip(self.names, values, strict=True))


def _merge_states(states: Sequence[str], *, add_steps: bool = False) -> dict[tuple[str, ...], tuple[Tensor, int]]:
    """Add the sums of several processes; `add_steps` adds their numbers of steps, too."""
    merged: dict[tuple[str, ...], tuple[Tensor, int]] = {}
    for state in states:
        for items, total, count in json.loads(state):
            merged_total, steps = merged.get(tuple(items), (torch.zeros(len(total)), 0))
            merged[tuple(items)] = (merged_total + torch.tensor(total), steps + count if add_steps else count)
    return merged
