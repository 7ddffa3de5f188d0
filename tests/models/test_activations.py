"""Activations against torch's or the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils import activations as act


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        pytest.param(act.SiLU(), F.silu, id="silu"),
        pytest.param(act.Hardswish(), F.hardswish, id="hardswish"),
        pytest.param(act.Mish(), F.mish, id="mish"),
        pytest.param(act.MemoryEfficientMish(), F.mish, id="memory-efficient mish"),
    ],
)
def test_equals_torch(ours: nn.Module, reference: object) -> None:
    x = torch.linspace(-8, 8, 101, requires_grad=True)
    assert callable(reference)
    torch.testing.assert_close(ours(x), reference(x))
    (gradient,) = torch.autograd.grad(ours(x).sum(), x)
    (expected,) = torch.autograd.grad(reference(x).sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_frelu_takes_the_larger() -> None:
    funnel = act.FReLU(2).eval()
    nn.init.zeros_(funnel.conv.weight)  # T(x) = 0: a ReLU
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(funnel(x), x.relu())


def test_acon_special_cases() -> None:
    """p1 = 1, p2 = 0, beta = 1 is SiLU; a beta of 0 gives the mean slope (p1 + p2) / 2."""
    acon = act.AconC(3)
    with torch.no_grad():
        acon.p1.fill_(1)
        acon.p2.fill_(0)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(acon(x), F.silu(x))
    with torch.no_grad():
        acon.p2.fill_(0.5)
        acon.beta.fill_(0)
    torch.testing.assert_close(acon(x), 0.75 * x)


def test_meta_acon_beta_of_zero_weights_is_a_half() -> None:
    acon = act.MetaAconC(4)
    with torch.no_grad():
        acon.p1.fill_(1)
        acon.p2.fill_(0)
        for parameter in acon.fc2.parameters():
            parameter.zero_()
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(acon(x), x * torch.sigmoid(0.5 * x))
