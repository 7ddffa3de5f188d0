"""Loaders of training steps: one batch per step, or several from loaders that run side by side or in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import numpy as np

from utils.core.types import Batch
from utils.datasets.detection import EPOCH_REPEAT


class StepLoader(Protocol):
    """Yields the batches of each optimizer step; their order depends on seed and epoch only."""

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        """Choose the epoch, which decides order and augmentation.

        Args:
            image_weights: sampling weights of the images of the first loader.
            first: steps of the epoch to skip.
        """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[list[Batch]]: ...


class ParallelLoader:
    """A `StepLoader` over one or several loaders that run side by side: a batch of each per step.

    Args:
        balance: "longest" or "shortest", the loader whose length an epoch has. With the longest, the others start over
            with an order and augmentations that follow from (seed, epoch, round).
    """

    def __init__(self, *loaders: Any, balance: str = "shortest") -> None:
        self.loaders, self.balance = loaders, balance
        self._epoch: tuple[int, np.ndarray | None] = (0, None)
        self._first = 0

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        self._epoch, self._first = (epoch, image_weights), first

    def __len__(self) -> int:
        choose = max if self.balance == "longest" else min
        return choose(len(loader) for loader in self.loaders)

    def __iter__(self) -> Iterator[list[Batch]]:
        endless = [self._repeat(number) for number in range(len(self.loaders))]
        return ([next(batches) for batches in endless] for _ in range(self._first, len(self)))

    def _repeat(self, number: int) -> Iterator[Batch]:
        """The batches of loader `number`, round after round."""
        epoch, image_weights = self._epoch
        loader, weights = self.loaders[number], None if number else image_weights
        start, first = divmod(self._first, max(len(loader), 1))
        for round_ in count(start):
            loader.set_epoch(epoch + round_ * EPOCH_REPEAT, weights, first if round_ == start else 0)
            yield from loader


@dataclass
class TaggedLoader:
    """The batches of a `StepLoader` with one batch per step, with `Batch.kind` set."""

    loader: StepLoader
    kind: str = ""

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        self.loader.set_epoch(epoch, image_weights, first)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return (replace(batch, kind=self.kind) for batches in self.loader for batch in batches)


class SequentialLoader:
    """A `StepLoader` that runs through several loaders one after the other."""

    def __init__(self, *loaders: TaggedLoader) -> None:
        self.loaders = loaders

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        """As `StepLoader.set_epoch`; nothing is skipped."""
        for loader in self.loaders:
            loader.set_epoch(epoch, image_weights)

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[list[Batch]]:
        return ([batch] for loader in self.loaders for batch in loader)
