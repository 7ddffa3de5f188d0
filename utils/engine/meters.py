"""Means of loss items, read from the device seldom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

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
        """Means so far; zeros before the first step."""
        if not self.totals:
            return dict.fromkeys(self.names, 0.0)
        values = torch.cat([total / count for total, count in self.totals.values()]).tolist()
        return dict(zip(self.names, values, strict=True))

    def read(self) -> dict[str, float]:
        """Means so far.

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
        return self.means()
