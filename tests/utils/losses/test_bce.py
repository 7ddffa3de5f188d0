from __future__ import annotations

import math

import pytest
import torch

from utils.losses.bce import bce_loss, smooth_one_hot

ONE = torch.tensor(1.0)


def test_plain_loss_and_positive_weight() -> None:
    logits, targets = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    loss = bce_loss(logits, targets, pos_weight=torch.tensor(3.0))
    assert loss.tolist() == pytest.approx([3 * math.log(2), math.log(2)])


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        pytest.param(0.0, 1.0, 0.25 * 0.5**2 * math.log(2), id="positive"),
        pytest.param(0.0, 0.0, 0.75 * 0.5**2 * math.log(2), id="negative"),
        pytest.param(math.log(3), 1.0, 0.25 * 0.25**2 * math.log(4 / 3), id="easy-positive"),  # p = 3/4
        pytest.param(math.log(3), 0.5, 0.5 * 0.5**2 * (math.log(4 / 3) + math.log(4)) / 2, id="soft"),
    ],
)
def test_focal_loss(logit: float, target: float, expected: float) -> None:
    loss = bce_loss(torch.tensor([logit]), torch.tensor([target]), pos_weight=ONE, gamma=2.0)
    assert loss.tolist() == pytest.approx([expected], rel=1e-5)


def test_smoothed_targets() -> None:
    targets = smooth_one_hot(torch.tensor([2, 0]), 3, 0.1)
    torch.testing.assert_close(targets, torch.tensor([[0.05, 0.05, 0.95], [0.95, 0.05, 0.05]]))
    assert smooth_one_hot(torch.zeros(0, dtype=torch.long), 3).shape == (0, 3)
