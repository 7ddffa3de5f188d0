"""Means of loss items, read from the device seldom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from utils.errors import InputError


class LossMeter:
    """Means of loss items over an epoch or a split, read from the device only when `read` is called.

    Args:
        names: names the means are given under, in the order in which the items of a whole step come.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.total: Tensor | None = None
        self.count = 0
        self.unread: list[tuple[Tensor, list[str]]] = []

    def add(self, items: Mapping[str, Tensor], paths: list[str]) -> None:
        """Take in a step's items, scalars, and the files they came from."""
        stacked = torch.stack([value.detach().float() for value in items.values()])
        self.total = stacked if self.total is None else self.total + stacked
        self.count += 1
        self.unread.append((stacked, paths))

    def means(self) -> dict[str, float]:
        """Means so far; zeros before the first step."""
        values = [0.0] * len(self.names) if self.total is None else (self.total / self.count).tolist()
        return dict(zip(self.names, values, strict=True))

    def read(self) -> dict[str, float]:
        """Means so far.

        Raises:
            InputError: a loss is not finite; names the files of the first such step.
        """
        rows = torch.stack([row for row, _ in self.unread]).tolist() if self.unread else []
        for row, (_, paths) in zip(rows, self.unread, strict=True):
            if not all(map(math.isfinite, row)):
                files = ", ".join(dict.fromkeys(paths))
                raise InputError(
                    f"the loss is not finite on the batch of {files}; look at these labels and pictures, lower lr0, "
                    "or train with --amp off; last.pt holds the state before this epoch"
                )
        self.unread.clear()
        return self.means()
