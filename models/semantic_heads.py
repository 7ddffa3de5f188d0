"""Semantic segmentation heads and their context blocks.

A head takes feature maps of the backbone or neck, finest first, and returns logits at the size of the network input.
Blocks map (B, C, H, W) to (B, C', H, W) unless stated otherwise. Every convolution followed by a batch norm is a
`Conv`, so that `BaseModel.fuse` fuses all of them, including dilated branches and gates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.common import C3, SPP, Conv

DROPOUT = 0.1  # before the last convolution of some heads
POOLED_GRIDS = (1, 2, 3, 6)
DETAIL_CHANNELS = 48  # of the fine branch of SegMaskLab
LAB_CHANNELS = 256  # of the fused features of SegMaskLab
BISE_CHANNELS = 128  # of the branches of SegMaskBiSe


# -- pooling and resizing ---------------------------------------------------------------------------------------------


def resize_bilinear(x: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Resize (B, C, H, W) bilinearly with aligned corners."""
    return F.interpolate(x, size=list(size_hw), mode="bilinear", align_corners=True)


def expand_like(pooled: Tensor, like: Tensor) -> Tensor:
    """Expand (B, C, 1, 1) to the size of `like`."""
    return F.interpolate(pooled, size=like.shape[-2:], mode="nearest")


def adaptive_avg_pool(x: Tensor, side: int) -> Tensor:
    """Adaptive average pooling to (B, C, side, side); cells overlap if `side` does not divide the height or width.

    Cell i covers rows floor(i H / side) to ceil((i + 1) H / side), and columns likewise. Export runtimes have no
    operator for uneven cells, so tracing and exporting use two matrix products instead.
    """
    if side == 1:
        return x.mean(dim=(2, 3), keepdim=True)
    if not (torch.jit.is_tracing() or torch.compiler.is_exporting()):
        return F.adaptive_avg_pool2d(x, side)
    rows, columns = (_cell_weights(length, side, x) for length in x.shape[-2:])
    return rows @ x @ columns.transpose(0, 1)


def _cell_weights(length: int, side: int, like: Tensor) -> Tensor:
    """(side, length): weight of each position in the average of each cell."""
    cells = torch.arange(side, device=like.device).unsqueeze(1)
    positions = torch.arange(length, device=like.device)
    begin, end = cells * length // side, ((cells + 1) * length + side - 1) // side
    inside = ((positions >= begin) & (positions < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


class PooledNorm(nn.BatchNorm2d):
    """Batch norm of globally pooled features that uses running statistics if a channel has a single value.

    That is the case for one image per device, where batch statistics would turn every channel into a constant.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class PooledConv(Conv):
    """1x1 `Conv` on (B, c1, 1, 1) that can be trained with one image."""

    def __init__(self, c1: int, c2: int, act: bool | nn.Module = True) -> None:
        super().__init__(c1, c2, 1, act=act)
        self.bn = PooledNorm(c2)


def build_dilated_conv(c1: int, c2: int, rate: int) -> Conv:
    """3x3 `Conv` with dilation `rate` that keeps the spatial size."""
    return Conv(c1, c2, 3, d=rate)


# -- gates ------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Channel attention from global context (squeeze and excitation, arXiv:1709.01507).

    Args:
        chan: channels. reduction: factor by which a first layer reduces the channels; 1 omits that layer.
    """

    def __init__(self, chan: int, reduction: int = 1) -> None:
        super().__init__()
        hidden = chan // reduction
        self.squeeze = PooledConv(chan, hidden) if reduction > 1 else nn.Identity()
        self.excite = PooledConv(hidden, chan, act=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.squeeze(adaptive_avg_pool(x, 1)))
        return x * gate.sigmoid()


class ARM(nn.Module):
    """Attention refinement module: 3x3 convolution and channel attention (BiSeNet, arXiv:1808.00897)."""

    def __init__(self, in_chan: int, out_chan: int) -> None:
        super().__init__()
        self.conv = Conv(in_chan, out_chan, 3)
        self.attention = Attention(out_chan)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.conv(x))


class FFM(nn.Module):
    """Feature fusion module: concatenate, convolve, and add gated channels (BiSeNet, arXiv:1808.00897).

    Args:
        in_chan: total channels of all inputs. reduction: factor by which the gate reduces the channels.
        is_cat: the input is a list of feature maps of equal size, to be concatenated. k: kernel size.
    """

    def __init__(self, in_chan: int, out_chan: int, reduction: int = 1, is_cat: bool = True, k: int = 1) -> None:
        super().__init__()
        self.is_cat = is_cat
        self.mix = Conv(in_chan, out_chan, k)
        hidden = out_chan // reduction
        self.gate = nn.Sequential(
            nn.Conv2d(out_chan, hidden, 1, bias=False),
            nn.SiLU(),
            nn.Conv2d(hidden, out_chan, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        features = self.mix(x if isinstance(x, Tensor) else torch.cat(list(x), dim=1))
        return features + features * self.gate(adaptive_avg_pool(features, 1))


# -- context ----------------------------------------------------------------------------------------------------------


class C3SPP(nn.Module):
    """Two branches with half of the input channels, one with spatial pyramid pooling, concatenated.

    Unlike `C3SPP` of models/common.py, the pooled branch is 1.5 times wider.

    Args:
        k: pooling window sizes. g: unused. e: channels of a branch relative to the input.
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13), g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c1 * e)
        pooled = int(1.5 * hidden)
        self.pooled = nn.Sequential(Conv(c1, hidden), SPP(hidden, pooled, k))
        self.plain = Conv(c1, hidden)
        self.join = Conv(pooled + hidden, c2)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.pooled(x), self.plain(x)), dim=1))


class _Branches(nn.Module):
    """Parallel branches and optionally a global average branch, concatenated and fused by a 1x1 convolution."""

    def __init__(self, c1: int, c2: int, hidden: int, branches: Sequence[nn.Module], *, global_branch: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.overall = PooledConv(c1, hidden) if global_branch else None
        self.join = Conv(hidden * (len(branches) + global_branch), c2)

    def forward(self, x: Tensor) -> Tensor:
        features = [branch(x) for branch in self.branches]
        if self.overall is not None:
            features.append(expand_like(self.overall(adaptive_avg_pool(x, 1)), x))
        return self.join(torch.cat(features, dim=1))


class ASPP(_Branches):
    """Atrous spatial pyramid pooling (DeepLab v3, arXiv:1706.05587) with few channels per branch.

    Args:
        d: dilation rates of the 3x3 branches, in addition to a 1x1 branch.
        has_globel: add a global average branch.
        map_reduce: input channels divided by those of a branch.
    """

    def __init__(
        self,
        in_channel: int,
        out_channel: int = 256,
        d: Sequence[int] = (3, 6, 9),
        has_globel: bool = True,
        map_reduce: int = 4,
    ) -> None:
        hidden = in_channel // map_reduce
        branches = self._build_branches(in_channel, hidden, d)
        super().__init__(in_channel, out_channel, hidden, branches, global_branch=has_globel)

    @staticmethod
    def _build_branches(c1: int, hidden: int, rates: Sequence[int]) -> list[nn.Module]:
        return [Conv(c1, hidden), *(build_dilated_conv(c1, hidden, rate) for rate in rates)]


class ASPPs(ASPP):
    """`ASPP` whose branches reduce the channels first; the undilated branch is 3x3."""

    @staticmethod
    def _build_branches(c1: int, hidden: int, rates: Sequence[int]) -> list[nn.Module]:
        return [nn.Sequential(Conv(c1, hidden), build_dilated_conv(hidden, hidden, rate)) for rate in (1, *rates)]


class RFB1(_Branches):
    """Receptive field block: kernel size and dilation grow together (RFB, arXiv:1711.07767).

    Args:
        map_reduce: input channels divided by those of a branch. d: rates of the three dilated branches.
        has_globel: add a global average branch.
    """

    def __init__(
        self,
        in_planes: int,
        out_planes: int,
        map_reduce: int = 4,
        d: Sequence[int] = (3, 5, 7),
        has_globel: bool = False,
    ) -> None:
        hidden = in_planes // map_reduce
        branches = [nn.Sequential(Conv(in_planes, hidden), Conv(hidden, hidden, 3))]
        for kernel, rate in zip((3, 3, 5), d, strict=True):
            convs = [Conv(in_planes, hidden), Conv(hidden, hidden, kernel), build_dilated_conv(hidden, hidden, rate)]
            branches.append(nn.Sequential(*convs))
        super().__init__(in_planes, out_planes, hidden, branches, global_branch=has_globel)


class RFB2(nn.Module):
    """A cascade of convolutions with growing dilation, all stages concatenated (after RFB, arXiv:1711.07767).

    Each stage takes the output of the previous one, so that rates 1, 2, 3 leave no gaps in the receptive field.

    Args:
        map_reduce: input channels divided by those of a stage. d: rates of the stages after the first.
        has_globel: add a global average branch on the last stage.
    """

    def __init__(
        self, in_planes: int, out_planes: int, map_reduce: int = 4, d: Sequence[int] = (2, 3), has_globel: bool = False
    ) -> None:
        super().__init__()
        hidden = in_planes // map_reduce
        first = nn.Sequential(Conv(in_planes, hidden), Conv(hidden, hidden, 3))
        self.stages = nn.ModuleList([first, *(build_dilated_conv(hidden, hidden, rate) for rate in d)])
        self.side = Conv(in_planes, hidden)
        self.overall = PooledConv(hidden, hidden) if has_globel else None
        self.join = Conv(hidden * (len(self.stages) + 1 + has_globel), out_planes)

    def forward(self, x: Tensor) -> Tensor:
        features, last = [], x
        for stage in self.stages:
            last = stage(last)
            features.append(last)
        features.append(self.side(x))
        if self.overall is not None:
            features.append(expand_like(self.overall(adaptive_avg_pool(last, 1)), x))
        return self.join(torch.cat(features, dim=1))


class PyramidPooling(nn.Module):
    """Append context pooled over several grids (PSPNet, arXiv:1612.01105): C -> 2C channels.

    Args:
        k: sides of the grids, in cells; their number must divide the channels.
    """

    def __init__(self, in_channels: int, k: Sequence[int] = POOLED_GRIDS) -> None:
        super().__init__()
        part, rest = divmod(in_channels, len(k))
        if rest:
            raise ValueError(f"{in_channels} channels are not divisible by the number of grids, {len(k)}")
        self.grids = tuple(k)
        self.convs = nn.ModuleList(
            PooledConv(in_channels, part) if side == 1 else Conv(in_channels, part) for side in k
        )

    def forward(self, x: Tensor) -> Tensor:
        size_hw = x.shape[-2:]
        branches = zip(self.convs, self.grids, strict=True)
        context = [resize_bilinear(conv(adaptive_avg_pool(x, side)), size_hw) for conv, side in branches]
        return torch.cat([x, *context], dim=1)


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling module (DDRNet, arXiv:2101.06085), with SiLU.

    Averages over growing windows, each refined with the previous one. Norm and activation precede the convolutions,
    so there is nothing to fuse.

    Args:
        branch: channels of each scale.
    """

    WINDOWS = ((5, 2), (9, 4), (17, 8))  # size and stride; followed by a global average

    def __init__(self, in_chan: int, branch: int, out_chan: int) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(side, stride, side // 2) for side, stride in self.WINDOWS]
        self.pools = nn.ModuleList([nn.Identity(), *pools, nn.AdaptiveAvgPool2d(1)])
        self.narrow = nn.ModuleList(
            _build_preact_conv(in_chan, branch, 1, pooled=isinstance(pool, nn.AdaptiveAvgPool2d)) for pool in self.pools
        )
        self.refine = nn.ModuleList(_build_preact_conv(branch, branch, 3) for _ in self.pools[1:])
        self.join = _build_preact_conv(branch * len(self.pools), out_chan, 1)
        self.shortcut = _build_preact_conv(in_chan, out_chan, 1)

    def forward(self, x: Tensor) -> Tensor:
        size_hw = x.shape[-2:]
        scales = [narrow(pool(x)) for narrow, pool in zip(self.narrow, self.pools, strict=True)]
        refined = scales[:1]
        for refine, scale in zip(self.refine, scales[1:], strict=True):
            refined.append(refine(resize_bilinear(scale, size_hw) + refined[-1]))
        return self.join(torch.cat(refined, dim=1)) + self.shortcut(x)


def _build_preact_conv(c1: int, c2: int, k: int, *, pooled: bool = False) -> nn.Sequential:
    """Batch norm, SiLU and a convolution without bias."""
    norm = PooledNorm(c1) if pooled else nn.BatchNorm2d(c1)
    return nn.Sequential(norm, nn.SiLU(), nn.Conv2d(c1, c2, k, padding=k // 2, bias=False))


# -- heads ------------------------------------------------------------------------------------------------------------


class JointOutput(NamedTuple):
    """Output of a network with a detection and a semantic head.

    Attributes:
        detection: output of the detection head.
        semantic: logits (B, classes, H, W); a list of them in training if the head has auxiliary outputs.
    """

    detection: Any
    semantic: Any


def average_logits(parts: Iterable[Tensor]) -> Tensor:
    """FP32 logits (B, n, H, W) of the mean class probabilities of several logits."""
    total, count = torch.zeros(()), 0
    for logits in parts:
        probs = logits.float().softmax(dim=1)
        total, count = total.to(probs) + probs, count + 1
    return (total / count).clamp_min(torch.finfo(total.dtype).tiny).log()


class SemanticHead(nn.Module, ABC):
    """Base class of semantic heads: checks the inputs and resizes logits to the size of the network input.

    Args:
        nc: number of semantic classes.
        ch: channels of the feature maps, finest first.

    Attributes:
        inputs: number of feature maps that the head takes.
        stride: of the first feature map; set by the network.

    Shape:
        logits (B, nc, H, W); a list of them in training if the head has auxiliary outputs.
    """

    inputs = 1
    stride = 8

    def __init__(self, nc: int, ch: Sequence[int]) -> None:
        super().__init__()
        if isinstance(nc, bool) or not isinstance(nc, int) or not 1 <= nc <= 255:
            raise ValueError(f"{nc!r} is not a number of classes from 1 to 255; set n_segcls in the model YAML")
        if len(ch) != self.inputs:
            raise ValueError(f"{len(ch)} inputs, but {type(self).__name__} takes {self.inputs}, finest first")
        self.nc = nc

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        feature_maps = [x] if isinstance(x, Tensor) else list(x)
        size_hw = [side * self.stride for side in feature_maps[0].shape[-2:]]
        outputs = [resize_bilinear(logits, size_hw) for logits in self.predict(feature_maps)]
        return outputs[0] if len(outputs) == 1 else outputs

    @abstractmethod
    def predict(self, feature_maps: list[Tensor]) -> list[Tensor]:
        """Low-resolution logits: the main ones, followed by auxiliary ones in training."""


class SegMaskBase(SemanticHead):
    """C3 and spatial pyramid pooling on one feature map: the cheapest head for small networks.

    Args:
        n: number of bottlenecks. c: channels after the first block. shortcut: of its bottlenecks.
        ch: of one feature map, stride 8.
    """

    def __init__(self, nc: int, n: int = 1, c: int = 256, shortcut: bool = False, ch: Sequence[int] = ()) -> None:
        super().__init__(nc, ch)
        hidden = int(1.5 * c)
        self.body = nn.Sequential(C3(ch[0], c, n, shortcut), C3SPP(c, hidden), nn.Dropout(DROPOUT))
        self.classify = nn.Conv2d(hidden, nc, 3, padding=1, bias=False)

    def predict(self, feature_maps: list[Tensor]) -> list[Tensor]:
        return [self.classify(self.body(feature_maps[0]))]


class SegMaskPSP(SemanticHead):
    """Three scales fused, followed by dilated convolutions and pyramid pooling.

    Args:
        n, shortcut: unused. c: channels of each scale.
        ch: of three feature maps, strides 8, 16, 32.
    """

    inputs = 3

    def __init__(self, nc: int, n: int = 1, c: int = 128, shortcut: bool = False, ch: Sequence[int] = ()) -> None:
        super().__init__(nc, ch)
        self.narrow = nn.ModuleList(Conv(channels, c) for channels in ch)
        self.body = nn.Sequential(
            RFB2(c * len(ch), c, map_reduce=6), PyramidPooling(c), FFM(2 * c, c, is_cat=False, k=3)
        )
        self.classify = nn.Conv2d(c, nc, 1)

    def predict(self, feature_maps: list[Tensor]) -> list[Tensor]:
        fine, *coarser = (narrow(x) for narrow, x in zip(self.narrow, feature_maps, strict=True))
        features = torch.cat([fine, *(resize_bilinear(x, fine.shape[-2:]) for x in coarser)], dim=1)
        return [self.classify(self.body(features))]


class SegMaskLab(SemanticHead):
    """ASPP context at stride 16 fused with details at stride 8 (after DeepLab v3+, arXiv:1802.02611).

    Args:
        n: widens the dilated branches: map_reduce is 5 - n, at least 1. c: half of the channels of the context's
            input, and the channels before the last convolution. shortcut: unused.
        ch: of two feature maps, strides 8 and 16.
    """

    inputs = 2

    def __init__(self, nc: int, n: int = 1, c: int = 128, shortcut: bool = False, ch: Sequence[int] = ()) -> None:
        super().__init__(nc, ch)
        self.detail = nn.Sequential(Conv(ch[0], DETAIL_CHANNELS), Conv(DETAIL_CHANNELS, DETAIL_CHANNELS, 3))
        context = ASPP(2 * c, LAB_CHANNELS, has_globel=False, map_reduce=max(5 - n, 1))
        self.context = nn.Sequential(Conv(ch[1], 2 * c), context)
        self.join = FFM(DETAIL_CHANNELS + LAB_CHANNELS, LAB_CHANNELS)
        self.classify = nn.Sequential(Conv(LAB_CHANNELS, c, 3), nn.Conv2d(c, nc, 1))

    def predict(self, feature_maps: list[Tensor]) -> list[Tensor]:
        detail, context = self.detail(feature_maps[0]), self.context(feature_maps[1])
        features = self.join([detail, resize_bilinear(context, detail.shape[-2:])])
        return [self.classify(features)]


class SegMaskBiSe(SemanticHead):
    """A context path and a detail path, with auxiliary outputs in training (after BiSeNet, arXiv:1808.00897).

    Args:
        n, c, shortcut: unused; the widths are fixed.
        ch: of three feature maps, strides 8, 16, 32.

    Shape:
        training: [logits, auxiliary logits of the stride-16 context, auxiliary logits of the stride-32 context].
    """

    inputs = 3

    def __init__(self, nc: int, n: int = 1, c: int = 128, shortcut: bool = False, ch: Sequence[int] = ()) -> None:
        super().__init__(nc, ch)
        width = BISE_CHANNELS
        self.detail = Conv(ch[0], width)
        self.middle = RFB2(ch[1], width, map_reduce=4)
        self.coarse = RFB2(ch[2], width, map_reduce=8, has_globel=True)
        self.refine_middle, self.refine_coarse = Conv(width, width, 3), Conv(width, width, 3)
        self.join = FFM(2 * width, 2 * width, k=3)
        self.classify = nn.Sequential(nn.Dropout(DROPOUT), nn.Conv2d(2 * width, nc, 1))
        self.auxiliary = nn.ModuleList(nn.Sequential(Conv(width, width, 3), nn.Conv2d(width, nc, 1)) for _ in range(2))

    def predict(self, feature_maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = feature_maps
        at_32 = resize_bilinear(self.refine_coarse(self.coarse(coarse)), middle.shape[-2:])
        at_16 = resize_bilinear(self.refine_middle(self.middle(middle) + at_32), fine.shape[-2:])
        main = self.classify(self.join([self.detail(fine), at_16]))
        if not self.training:
            return [main]
        return [main, *(auxiliary(x) for auxiliary, x in zip(self.auxiliary, (at_16, at_32), strict=True))]


SEMANTIC_HEADS: dict[str, type[SemanticHead]] = {
    head.__name__: head for head in (SegMaskBase, SegMaskBiSe, SegMaskLab, SegMaskPSP)
}
