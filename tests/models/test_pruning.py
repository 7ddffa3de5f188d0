from __future__ import annotations

import pytest
import torch
from torch import nn

from models.pruning import compute_sparsity, prune_convolutions
from models.yolo import DetectionModel


def test_the_smallest_weights_become_zero() -> None:
    layer = nn.Conv2d(1, 1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[0.1, -0.4], [0.3, -0.2]]]]))
        layer.bias.fill_(0.01)
    assert prune_convolutions(layer, 0.5) == 1
    assert layer.weight.flatten().tolist() == pytest.approx([0, -0.4, 0.3, 0])
    assert layer.bias.item() == pytest.approx(0.01)
    assert compute_sparsity(layer) == 2 / 5


def test_pruned_network_keeps_its_keys_and_is_trainable() -> None:
    model = DetectionModel("yolov5n.yaml", nc=3)
    keys, convolutions = list(model.state_dict()), [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert prune_convolutions(model, 0.3) == len(convolutions)
    assert sorted(model.state_dict()) == sorted(keys)
    for convolution in convolutions:
        assert int((convolution.weight == 0).sum()) == round(0.3 * convolution.weight.numel())
        assert convolution.weight.requires_grad


@pytest.mark.parametrize("amount", [-0.1, 1.0])
def test_invalid_amounts(amount: float) -> None:
    with pytest.raises(ValueError, match="below 1"):
        prune_convolutions(nn.Conv2d(1, 1, 1), amount)


def test_an_empty_network_has_no_zeros() -> None:
    assert compute_sparsity(nn.Identity()) == 0
