"""Activations that torch lacks, or that exporters take apart better than torch's own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SiLU(nn.Module):
    """x * sigmoid(x) in elementary operations, for exporters without the fused one (arXiv:1606.08415)."""

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
    """Mish that keeps only its input for the backward pass, which torch's fused operator does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x)


class FReLU(nn.Module):
    """max(x, T(x)) with T a normalized depth-wise convolution (funnel activation, arXiv:2007.11824)."""

    def __init__(self, c1: int, k: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, k, padding=k // 2, groups=c1, bias=False)
        self.bn = nn.BatchNorm2d(c1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.bn(self.conv(x)))


class _Acon(nn.Module, ABC):
    """(p1 - p2) x * sigmoid(beta (p1 - p2) x) + p2 x with learned slopes p1, p2 per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p1, self.p2 = (nn.Parameter(torch.randn(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        rise = (self.p1 - self.p2) * x
        return rise * torch.sigmoid(self._sharpness(x) * rise) + self.p2 * x

    @abstractmethod
    def _sharpness(self, x: Tensor) -> Tensor:
        """Beta, broadcast against x (B, C, H, W)."""


class AconC(_Acon):
    """ACON-C, beta learned per channel (arXiv:2009.04759)."""

    def __init__(self, c1: int) -> None:
        super().__init__(c1)
        self.beta = nn.Parameter(torch.ones(1, c1, 1, 1))

    def _sharpness(self, x: Tensor) -> Tensor:
        return self.beta


class MetaAconC(_Acon):
    """ACON-C whose beta comes from the channel means through two 1x1 convolutions (arXiv:2009.04759)."""

    def __init__(self, c1: int, k: int = 1, s: int = 1, r: int = 16) -> None:
        super().__init__(c1)
        hidden = max(r, c1 // r)
        self.fc1 = nn.Conv2d(c1, hidden, k, s)
        self.fc2 = nn.Conv2d(hidden, c1, k, s)

    def _sharpness(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.fc2(self.fc1(means)))
