"""Rare blocks and the ensemble of several models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.common import BottleneckCSP, CrossConv, GhostBottleneck, GhostConv
from models.semantic_heads import JointOutput, mean_logits

__all__ = [  # releases 1 to 5 have CrossConv and the Ghost blocks at this address
    "C3Cross",
    "ConvPlus",
    "CrossConv",
    "Ensemble",
    "Flatten",
    "GhostBottleneck",
    "GhostConv",
    "MixConv2d",
    "MixConv2dResidual",
    "PooledClassify",
    "Sum",
]


class Sum(nn.Module):
    """Sum of n equal maps; with `weight` the second and later ones have learned weights 2 sigmoid(w) in (0, 2)."""

    def __init__(self, n: int, weight: bool = False) -> None:
        super().__init__()
        self.weight, self.iter = weight, range(n - 1)
        if weight:
            self.w = nn.Parameter(torch.linspace(-0.5, (1 - n) / 2, n - 1))

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


class MixConv2dResidual(MixConv2d):
    """`MixConv2d` of releases up to 5.0: LeakyReLU, and the input is added to the result."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True) -> None:
        super().__init__(c1, c2, k, s, equal_ch)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class C3Cross(BottleneckCSP):
    """`experimental.C3` of releases 2.0 to 3.1: a `BottleneckCSP` over factored convolutions, unlike today's C3."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        hidden = int(c2 * e)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.m = nn.Sequential(*(CrossConv(hidden, hidden, 3, 1, g, 1.0, shortcut) for _ in range(n)))


class ConvPlus(nn.Module):
    """A plus-shaped convolution: k x 1 and 1 x k added (release 1.0)."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2 = (
            nn.Conv2d(c1, c2, side, s, (side[0] // 2, side[1] // 2), groups=g, bias=bias) for side in ((k, 1), (1, k))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cv1(x) + self.cv2(x)


class Flatten(nn.Module):
    """(B, ...) -> (B, n), the block of releases before 4.0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class PooledClassify(nn.Module):
    """`common.Classify` of releases up to 6.1: pool, 1x1 convolution, flatten; listed maps are joined once pooled."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1) -> None:
        super().__init__()
        padding = k // 2 if p is None else p
        self.aap = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(c1, c2, k, s, padding, groups=g)
        self.flat: nn.Module = Flatten()

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        maps = [x] if isinstance(x, Tensor) else x
        pooled = [self.aap(feature) for feature in maps]
        return self.flat(self.conv(torch.cat(pooled, dim=1)))


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
        names, nc, yaml, semantic: of the first model.
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
    def semantic(self) -> Any:
        return getattr(self._first(), "semantic", None)

    @property
    def yaml(self) -> dict[str, Any]:
        return self._first().yaml

    @property
    def stride(self) -> Tensor:
        members: list[Any] = list(self)
        return max((member.stride for member in members), key=lambda stride: float(stride.max()))

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """(B, C, H, W) -> ((B, sum of N, no) decoded boxes, None); of segmenters instead of None all prototypes.

        Semantic masks are the mean of the members' probabilities, as logits.
        """
        outputs = [model(x, augment, profile, visualize) for model in self]
        if isinstance(outputs[0], Tensor):
            return mean_logits(outputs)
        if isinstance(outputs[0], JointOutput):
            detection = self._joined([output.detection for output in outputs])
            return JointOutput(detection, mean_logits(output.semantic for output in outputs))
        return self._joined(outputs)

    def _joined(self, outputs: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
        """The members' decoded rows, with all prototypes.

        A mask is coefficients times prototypes: each member's rows have zeros for the prototypes of the others.
        """
        decoded = [output[0] for output in outputs]
        if not isinstance(outputs[0][1], Tensor):
            return torch.cat(decoded, dim=1), None
        prototypes = torch.cat([output[1] for output in outputs], dim=1)
        before, total = 0, prototypes.shape[1]
        for number, (rows, output) in enumerate(zip(decoded, outputs, strict=True)):
            own = output[1].shape[1]
            boxes, codes = rows.split([rows.shape[2] - own, own], dim=2)
            decoded[number] = torch.cat((boxes, F.pad(codes, (before, total - before - own))), dim=2)
            before += own
        return torch.cat(decoded, dim=1), prototypes


def __getattr__(name: str) -> Any:
    """`attempt_load`, which users import from here; it lives above this module, hence the late import."""
    if name == "attempt_load":
        from models.checkpoint import attempt_load

        return attempt_load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
