"""Several loaders walked side by side: lengths, rounds, and what they are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from utils.core.types import Batch
from utils.datasets.detection import ROUND
from utils.tasks.base import Steps, image_file

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
    steps = Steps(NumberLoader(2), NumberLoader(5))
    steps.set_epoch(3)
    assert len(steps) == 2
    assert list(steps) == [[(3, 0), (3, 0)], [(3, 1), (3, 1)]]


def test_with_the_longest_the_shorter_starts_over_with_another_epoch() -> None:
    steps = Steps(NumberLoader(5), NumberLoader(2), balance="longest")
    steps.set_epoch(3)
    assert len(steps) == 5
    first, second = zip(*steps, strict=True)
    assert first == tuple((3, number) for number in range(5))
    rounds = [3, 3, 3 + ROUND, 3 + ROUND, 3 + 2 * ROUND]
    assert second == tuple(zip(rounds, [0, 1, 0, 1, 0], strict=True))
    steps.set_epoch(4)
    assert next(iter(steps)) == [(4, 0), (4, 0)]


def test_image_weights_are_those_of_the_first_loader_in_every_round() -> None:
    boxes, maps = NumberLoader(1), NumberLoader(3)
    steps = Steps(boxes, maps, balance="longest")
    weights = np.ones(4)
    steps.set_epoch(0, weights)
    list(steps)
    assert boxes.weights is weights and maps.weights is None
    assert boxes.epoch == 2 * ROUND


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("", "val_batch0_pred.jpg", "val_batch0_pred.jpg"),
        ("semantic", "val_batch0_pred.jpg", "val_batch0_semantic_pred.jpg"),
        ("semantic", "val_batch0_labels.jpg", "val_batch0_semantic_labels.jpg"),
        ("semantic", "train_batch2.jpg", "train_batch2_semantic.jpg"),
    ],
)
def test_files_of_drawn_batches(kind: str, name: str, expected: str) -> None:
    assert image_file(name, replace(EMPTY, kind=kind)) == expected


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("balance", ["longest", "shortest"])
def test_an_epoch_goes_on_in_the_middle(first: int, balance: str) -> None:
    steps = Steps(NumberLoader(5), NumberLoader(2), balance=balance)
    steps.set_epoch(3)
    whole = list(steps)
    steps.set_epoch(3, None, first)
    assert list(steps) == whole[first:]
