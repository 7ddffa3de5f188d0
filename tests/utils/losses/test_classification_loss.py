"""Classification loss against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils.losses.classification import classification_loss, compute_class_weights

LOGITS = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
LABELS = torch.tensor([1, 0])


def test_plain() -> None:
    assert classification_loss(LOGITS, LABELS).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_smoothing_spreads_over_all_classes() -> None:
    first = 0.9 * math.log(4 / 3) + 0.1 * (math.log(4) + math.log(4 / 3)) / 2
    expected = (first + math.log(2)) / 2
    assert classification_loss(LOGITS, LABELS, smoothing=0.1).item() == pytest.approx(expected)


def test_class_weights_are_a_weighted_mean() -> None:
    weights = torch.tensor([3.0, 1.0])
    expected = (math.log(4 / 3) + 3 * math.log(2)) / 4
    assert classification_loss(LOGITS, LABELS, class_weights=weights).item() == pytest.approx(expected)


def test_half_precision_logits_are_summed_in_float32() -> None:
    assert classification_loss(LOGITS.half(), LABELS).dtype == torch.float32


def test_balanced_weights() -> None:
    weights = compute_class_weights(np.array([6, 2, 0]))
    assert weights.tolist() == pytest.approx([8 / 12, 2.0, 0.0])
    assert (weights * torch.tensor([6, 2, 0])).sum().item() == pytest.approx(8)
