"""Experimental blocks and model ensembles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.common import BottleneckCSP, CrossConv, GhostBottleneck, GhostConv
from models.semantic_heads import JointOutput, average_logits
from utils.core.lazy import OUTSIDE, lazy_exports

__all__ = [  # releases 1 to 5 define CrossConv and the Ghost blocks in this module
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
    """Sum of n inputs; with `weight`, all but the first have learned weights 2 sigmoid(w) in (0, 2)."""

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
    """Convolutions of several kernel sizes, concatenated (MixConv, arXiv:1907.09595).

    Args:
        k: kernel sizes.
        equal_ch: split the output channels equally; otherwise such that all kernels have about as many weights.
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True) -> None:
        super().__init__()
        shares = [1.0 if equal_ch else 1 / side**2 for side in k]
        self.m = nn.ModuleList(
            nn.Conv2d(c1, part, side, s, side // 2, groups=math.gcd(c1, part), bias=False)
            for part, side in zip(split_proportionally(c2, shares), k, strict=True)
        )
        self.bn = nn.BatchNorm2d(c2)
        self.act: nn.Module = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        maps = [conv(x) for conv in self.m]
        return self.act(self.bn(torch.cat(maps, dim=1)))


class MixConv2dResidual(MixConv2d):
    """`MixConv2d` of releases up to 5.0, with LeakyReLU and a residual connection."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True) -> None:
        super().__init__(c1, c2, k, s, equal_ch)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class C3Cross(BottleneckCSP):
    """`experimental.C3` of releases 2.0 to 3.1: `BottleneckCSP` with factorized convolutions, unlike today's C3."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        hidden = int(c2 * e)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.m = nn.Sequential(*(CrossConv(hidden, hidden, 3, 1, g, 1.0, shortcut) for _ in range(n)))


class ConvPlus(nn.Module):
    """A plus-shaped convolution, the sum of k x 1 and 1 x k (release 1.0)."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2 = (
            nn.Conv2d(c1, c2, side, s, (side[0] // 2, side[1] // 2), groups=g, bias=bias) for side in ((k, 1), (1, k))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cv1(x) + self.cv2(x)


class Flatten(nn.Module):
    """(B, ...) -> (B, n), a block of releases before 4.0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class PooledClassify(nn.Module):
    """`common.Classify` of releases up to 6.1: pool, concatenate if the input is a list, 1x1 convolution, flatten."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1) -> None:
        super().__init__()
        padding = k // 2 if p is None else p
        self.aap = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(c1, c2, k, s, padding, groups=g)
        self.flat: nn.Module = Flatten()

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        feature_maps = [x] if isinstance(x, Tensor) else x
        pooled = [self.aap(feature_map) for feature_map in feature_maps]
        return self.flat(self.conv(torch.cat(pooled, dim=1)))


def split_proportionally(total: int, shares: Sequence[float]) -> list[int]:
    """Split `total` channels in proportion to `shares`, at least 1 each, by largest remainder."""
    if total < len(shares):
        raise ValueError(f"cannot split {total} channels among {len(shares)} kernels")
    exact = [(total - len(shares)) * share / sum(shares) for share in shares]
    parts = [1 + int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: int(exact[i]) - exact[i])
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


class Ensemble(nn.ModuleList):
    """An ensemble: the decoded boxes of all models are concatenated before non-maximum suppression.

    Attributes:
        task, names, nc, yaml, semantic: of the first model.
        stride: of the model with the largest stride.
    """

    def __init__(self, models: Sequence[nn.Module] = ()) -> None:
        super().__init__(models)

    def _first(self) -> Any:
        return self[0]

    @property
    def names(self) -> dict[int, str]:
        return self._first().names

    @property
    def task(self) -> str:
        return self._first().task

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
        models: list[Any] = list(self)
        return max((model.stride for model in models), key=lambda stride: float(stride.max()))

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """(B, C, H, W) -> (boxes (B, sum of N, no), None); segmentation models: (boxes, prototypes of all models).

        Semantic logits are those of the mean probabilities.
        """
        outputs = [model(x, augment, profile, visualize) for model in self]
        if isinstance(outputs[0], Tensor):
            return average_logits(outputs)
        if isinstance(outputs[0], JointOutput):
            detection = self._merge_detections([output.detection for output in outputs])
            return JointOutput(detection, average_logits(output.semantic for output in outputs))
        return self._merge_detections(outputs)

    def _merge_detections(self, outputs: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
        """Concatenate boxes and prototypes; the mask coefficients for another model's prototypes are zero."""
        decoded = [output[0] for output in outputs]
        if not isinstance(outputs[0][1], Tensor):
            return torch.cat(decoded, dim=1), None
        prototypes = torch.cat([output[1] for output in outputs], dim=1)
        start, total = 0, prototypes.shape[1]
        for index, (rows, output) in enumerate(zip(decoded, outputs, strict=True)):
            count = output[1].shape[1]
            boxes, coefs = rows.split([rows.shape[2] - count, count], dim=2)
            decoded[index] = torch.cat((boxes, F.pad(coefs, (start, total - start - count))), dim=2)
            start += count
        return torch.cat(decoded, dim=1), prototypes


LAZY_EXPORTS = {"attempt_load": "utils.tasks.networks", "attempt_download": "utils.downloads"}
LAZY_EXPORTS |= dict.fromkeys(("Bottleneck", "C3", "Conv", "DWConv", "autopad"), "models.common")
LAZY_EXPORTS |= {"np": OUTSIDE["np"]}
__all__ += ["math", "nn", "torch", *LAZY_EXPORTS]
_get_export = lazy_exports(__name__, LAZY_EXPORTS)


def __getattr__(name: str) -> Any:
    return _get_export(name)
