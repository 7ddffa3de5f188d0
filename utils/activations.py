"""Activations that torch lacks, or that export better than those of torch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SiLU(nn.Module):
    """x * sigmoid(x) in elementary operations, for exporters without a SiLU operator (arXiv:1606.08415)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) * x


class Hardswish(nn.Module):
    """x * relu6(x + 3) / 6 in elementary operations (MobileNetV3, arXiv:1905.02244)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) * x / 6


class Mish(nn.Module):
    """x * tanh(softplus(x)) in elementary operations (arXiv:1908.08681)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.softplus(x)) * x


class MemoryEfficientMish(nn.Module):
    """Mish that stores only its input for the backward pass, as torch's fused operator does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x)


class FReLU(nn.Module):
    """max(x, T(x)), T a depth-wise convolution with batch norm (funnel activation, arXiv:2007.11824)."""

    def __init__(self, c1: int, k: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, k, padding=k // 2, groups=c1, bias=False)
        self.bn = nn.BatchNorm2d(c1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.bn(self.conv(x)))


class _Acon(nn.Module, ABC):
    """(p1 - p2) x * sigmoid(beta (p1 - p2) x) + p2 x with learned p1, p2 per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p1, self.p2 = (nn.Parameter(torch.randn(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        difference = (self.p1 - self.p2) * x
        return difference * torch.sigmoid(self._compute_beta(x) * difference) + self.p2 * x

    @abstractmethod
    def _compute_beta(self, x: Tensor) -> Tensor:
        """Beta, broadcastable to x (B, C, H, W)."""


class AconC(_Acon):
    """ACON-C with a learned beta per channel (arXiv:2009.04759)."""

    def __init__(self, c1: int) -> None:
        super().__init__(c1)
        self.beta = nn.Parameter(torch.ones(1, c1, 1, 1))

    def _compute_beta(self, x: Tensor) -> Tensor:
        return self.beta


class MetaAconC(_Acon):
    """ACON-C whose beta is computed from channel means by two 1x1 convolutions (arXiv:2009.04759)."""

    def __init__(self, c1: int, k: int = 1, s: int = 1, r: int = 16) -> None:
        super().__init__(c1)
        hidden = max(r, c1 // r)
        self.fc1 = nn.Conv2d(c1, hidden, k, s)
        self.fc2 = nn.Conv2d(hidden, c1, k, s)

    def _compute_beta(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.fc2(self.fc1(means)))
