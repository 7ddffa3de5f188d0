"""Loaders of training steps: lengths, rounds, epochs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from utils.core.types import Batch
from utils.datasets.detection import EPOCH_REPEAT
from utils.datasets.step_loader import ParallelLoader, SequentialLoader, TaggedLoader
from utils.plots.batches import get_batch_file

EMPTY = Batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(0, 6), ["a.jpg"])


class NumberLoader:
    """Yields (epoch, number), `count` of them."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch, self.weights, self.first = count, 0, None, 0

    def set_epoch(self, epoch: int, image_weights: Any = None, first: int = 0) -> None:
        self.epoch, self.weights, self.first = epoch, image_weights, first

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, number) for number in range(self.first, self.count))


def test_the_shortest_ends_the_epoch() -> None:
    loader = ParallelLoader(NumberLoader(2), NumberLoader(5))
    loader.set_epoch(3)
    assert len(loader) == 2
    assert list(loader) == [[(3, 0), (3, 0)], [(3, 1), (3, 1)]]


def test_with_the_longest_the_shorter_starts_over_with_another_epoch() -> None:
    loader = ParallelLoader(NumberLoader(5), NumberLoader(2), balance="longest")
    loader.set_epoch(3)
    assert len(loader) == 5
    first, second = zip(*loader, strict=True)
    assert first == tuple((3, number) for number in range(5))
    rounds = [3, 3, 3 + EPOCH_REPEAT, 3 + EPOCH_REPEAT, 3 + 2 * EPOCH_REPEAT]
    assert second == tuple(zip(rounds, [0, 1, 0, 1, 0], strict=True))
    loader.set_epoch(4)
    assert next(iter(loader)) == [(4, 0), (4, 0)]


def test_image_weights_are_those_of_the_first_loader_in_every_round() -> None:
    boxes, maps = NumberLoader(1), NumberLoader(3)
    loader = ParallelLoader(boxes, maps, balance="longest")
    weights = np.ones(4)
    loader.set_epoch(0, weights)
    list(loader)
    assert boxes.weights is weights and maps.weights is None
    assert boxes.epoch == 2 * EPOCH_REPEAT


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("", "val_batch0_pred.jpg", "val_batch0_pred.jpg"),
        ("semantic", "val_batch0_pred.jpg", "val_batch0_semantic_pred.jpg"),
        ("semantic", "val_batch0_labels.jpg", "val_batch0_semantic_labels.jpg"),
        ("semantic", "train_batch2.jpg", "train_batch2_semantic.jpg"),
    ],
)
def test_files_of_batch_plots(kind: str, name: str, expected: str) -> None:
    assert get_batch_file(name, replace(EMPTY, kind=kind)) == expected


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("balance", ["longest", "shortest"])
def test_an_epoch_resumes_in_the_middle(first: int, balance: str) -> None:
    loader = ParallelLoader(NumberLoader(5), NumberLoader(2), balance=balance)
    loader.set_epoch(3)
    whole = list(loader)
    loader.set_epoch(3, None, first)
    assert list(loader) == whole[first:]


def test_loaders_in_turn_mark_their_batches() -> None:
    class Batches:
        def __init__(self, count: int) -> None:
            self.count = count

        def set_epoch(self, epoch: int, image_weights: Any = None, first: int = 0) -> None: ...
        def __len__(self) -> int:
            return self.count

        def __iter__(self) -> Iterator[list[Batch]]:
            return iter([[EMPTY]] * self.count)

    loader = SequentialLoader(TaggedLoader(Batches(2)), TaggedLoader(Batches(1), "semantic"))
    loader.set_epoch(0)
    assert len(loader) == 3
    assert [batch.kind for (batch,) in loader] == ["", "", "semantic"]
