"""Rare blocks and the ensemble of several models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.common import CrossConv, GhostBottleneck, GhostConv

__all__ = ["CrossConv", "Ensemble", "GhostBottleneck", "GhostConv", "MixConv2d", "Sum"]  # releases 1-5 name them here


class Sum(nn.Module):
    """Sum of n equal maps; with `weight` the second and later ones have learned weights 2 sigmoid(w) in (0, 2)."""

    def __init__(self, n: int, weight: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.iter = range(n - 1)
        if weight:
            self.w = nn.Parameter(-torch.arange(1.0, n) / 2)

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        first, *others = x
        if not self.weight:
            return sum(others, first)
        factors = 2 * torch.sigmoid(self.w)
        return sum((factor * other for factor, other in zip(factors, others, strict=True)), first)


class MixConv2d(nn.Module):
    """Convolutions of several kernel sides over the same input, their outputs joined (MixConv, arXiv:1907.09595).

    Args:
        k: kernel sides.
        equal_ch: share the output channels equally; otherwise share them so that the weights are about equal.
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True) -> None:
        super().__init__()
        wanted = [1.0 if equal_ch else 1 / side**2 for side in k]
        self.m = nn.ModuleList(
            nn.Conv2d(c1, part, side, s, side // 2, groups=math.gcd(c1, part), bias=False)
            for part, side in zip(shared_out(c2, wanted), k, strict=True)
        )
        self.bn = nn.BatchNorm2d(c2)
        self.act: nn.Module = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        maps = [conv(x) for conv in self.m]
        return self.act(self.bn(torch.cat(maps, dim=1)))


def shared_out(total: int, wanted: Sequence[float]) -> list[int]:
    """Split `total` in proportion to `wanted`, at least 1 each, by largest remainder."""
    if total < len(wanted):
        raise ValueError(f"{total} channels cannot be shared by {len(wanted)} kernels")
    exact = [(total - len(wanted)) * w / sum(wanted) for w in wanted]
    parts = [1 + int(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: int(exact[i]) - exact[i])
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


class Ensemble(nn.ModuleList):
    """Several detectors as one: their decoded boxes are joined before non-maximum suppression.

    Attributes:
        names, nc, yaml: of the first model.
        stride: of the model with the largest one.
    """

    def __init__(self, models: Sequence[nn.Module] = ()) -> None:
        super().__init__(models)

    def _first(self) -> Any:
        return self[0]

    @property
    def names(self) -> dict[int, str]:
        return self._first().names

    @property
    def nc(self) -> int:
        return self._first().nc

    @property
    def yaml(self) -> dict[str, Any]:
        return self._first().yaml

    @property
    def stride(self) -> Tensor:
        members: list[Any] = list(self)
        return max((member.stride for member in members), key=lambda stride: float(stride.max()))

    def forward(
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False
    ) -> tuple[Tensor, None]:
        """(B, C, H, W) -> ((B, sum of N, no) decoded boxes, None)."""
        decoded = [model(x, augment, profile, visualize)[0] for model in self]
        return torch.cat(decoded, dim=1), None
