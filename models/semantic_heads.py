"""Heads that give every pixel a class, and the context blocks that they are made of.

A head takes maps of the backbone or neck, finest first, and gives logits at the size of the network's input. Blocks map
(B, C, H, W) to (B, C', H, W) unless said otherwise. Every convolution with its own batch norm is a `Conv`, so that
`BaseModel.fuse` folds all of them, dilated branches and gates included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.common import C3, SPP, Conv

DROPOUT = 0.1  # of channels' values before the last convolution of some heads, in training
POOLED_GRIDS = (1, 2, 3, 6)
DETAIL_CHANNELS = 48  # of the fine map that SegMaskLab adds
LAB_CHANNELS = 256  # of SegMaskLab's joined map
BISE_CHANNELS = 128  # of SegMaskBiSe's maps


# -- pooling and resizing ---------------------------------------------------------------------------------------------


def resized(x: Tensor, size_hw: Sequence[int]) -> Tensor:
    """(B, C, H, W) at another size, bilinear with the corner pixels' centers kept in place."""
    return F.interpolate(x, size=list(size_hw), mode="bilinear", align_corners=True)


def spread(pooled: Tensor, like: Tensor) -> Tensor:
    """One value per channel (B, C, 1, 1) over the size of `like`."""
    return F.interpolate(pooled, size=like.shape[-2:], mode="nearest")


def grid_mean(x: Tensor, side: int) -> Tensor:
    """(B, C, side, side) means over a grid of cells, which overlap where `side` does not divide the map.

    Cell i covers rows floor(i H / side) to ceil((i + 1) H / side), columns likewise. Runtimes of exported files have no
    operator for uneven cells; while a graph is recorded the means are two matrix products.
    """
    if side == 1:
        return x.mean(dim=(2, 3), keepdim=True)
    if not (torch.jit.is_tracing() or torch.compiler.is_exporting()):
        return F.adaptive_avg_pool2d(x, side)
    rows, columns = (_cell_weights(length, side, x) for length in x.shape[-2:])
    return rows @ x @ columns.transpose(0, 1)


def _cell_weights(length: int, side: int, like: Tensor) -> Tensor:
    """(side, length): weight of each position in the mean of each cell."""
    cells = torch.arange(side, device=like.device).unsqueeze(1)
    positions = torch.arange(length, device=like.device)
    begin, end = cells * length // side, ((cells + 1) * length + side - 1) // side
    inside = ((positions >= begin) & (positions < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


class PooledNorm(nn.BatchNorm2d):
    """Batch norm of globally pooled maps, which uses its running statistics where a channel has a single value.

    That is so for one image per device: its own mean would turn every channel into a constant.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class PooledConv(Conv):
    """`Conv` 1x1 over (B, c1, 1, 1) that trains with one image too."""

    def __init__(self, c1: int, c2: int, act: bool | nn.Module = True) -> None:
        super().__init__(c1, c2, 1, act=act)
        self.bn = PooledNorm(c2)


def atrous(c1: int, c2: int, rate: int) -> Conv:
    """3x3 `Conv` with dilation `rate` that keeps the map's size."""
    return Conv(c1, c2, 3, d=rate)


# -- gates ------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Channels weighted by what the whole map holds (squeeze and excitation, arXiv:1709.01507).

    Args:
        chan: channels. reduction: factor by which the gate narrows first; 1 for no such layer.
    """

    def __init__(self, chan: int, reduction: int = 1) -> None:
        super().__init__()
        narrow = chan // reduction
        self.squeeze = PooledConv(chan, narrow) if reduction > 1 else nn.Identity()
        self.excite = PooledConv(narrow, chan, act=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.squeeze(grid_mean(x, 1)))
        return x * gate.sigmoid()


class ARM(nn.Module):
    """Attention refinement: a 3x3 convolution, its channels gated by their means (BiSeNet, arXiv:1808.00897)."""

    def __init__(self, in_chan: int, out_chan: int) -> None:
        super().__init__()
        self.conv = Conv(in_chan, out_chan, 3)
        self.attention = Attention(out_chan)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.conv(x))


class FFM(nn.Module):
    """Feature fusion: maps joined, mixed, and the channels that matter raised (BiSeNet, arXiv:1808.00897).

    Args:
        in_chan: channels of all inputs together. reduction: factor by which the gate narrows inside.
        is_cat: the input is a list of equally large maps, which are joined. k: kernel side of the mixing.
    """

    def __init__(self, in_chan: int, out_chan: int, reduction: int = 1, is_cat: bool = True, k: int = 1) -> None:
        super().__init__()
        self.is_cat = is_cat
        self.mix = Conv(in_chan, out_chan, k)
        narrow = out_chan // reduction
        self.gate = nn.Sequential(
            nn.Conv2d(out_chan, narrow, 1, bias=False),
            nn.SiLU(),
            nn.Conv2d(narrow, out_chan, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        joined = x if isinstance(x, Tensor) else torch.cat(list(x), dim=1)
        mixed = self.mix(joined)
        return mixed + mixed * self.gate(grid_mean(mixed, 1))


# -- context ----------------------------------------------------------------------------------------------------------


class C3SPP(nn.Module):
    """Two branches of half the input's channels, one with spatial pyramid pooling, joined.

    Not the `C3SPP` of models/common.py: the pooled branch is widened by a half here.

    Args:
        k: sides of the pooling windows. g: not used. e: channels of a branch over those of the input.
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13), g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        narrow = int(c1 * e)
        wide = int(1.5 * narrow)
        self.pooled = nn.Sequential(Conv(c1, narrow), SPP(narrow, wide, k))
        self.plain = Conv(c1, narrow)
        self.join = Conv(wide + narrow, c2)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.pooled(x), self.plain(x)), dim=1))


class _Branches(nn.Module):
    """Branches over the same map, and one over its mean if wanted, joined by a 1x1 convolution."""

    def __init__(self, c1: int, c2: int, hidden: int, branches: Sequence[nn.Module], *, with_mean: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.overall = PooledConv(c1, hidden) if with_mean else None
        self.join = Conv(hidden * (len(branches) + with_mean), c2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        if self.overall is not None:
            maps.append(spread(self.overall(grid_mean(x, 1)), x))
        return self.join(torch.cat(maps, dim=1))


class ASPP(_Branches):
    """Parallel dilated convolutions and the map's mean (DeepLab v3, arXiv:1706.05587), on few channels.

    Args:
        d: dilation rates of the three 3x3 branches beside the 1x1 one.
        has_globel: add the branch of the map's mean.
        map_reduce: input channels over those of a branch.
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
        branches = self._parallel(in_channel, hidden, d)
        super().__init__(in_channel, out_channel, hidden, branches, with_mean=has_globel)

    @staticmethod
    def _parallel(c1: int, hidden: int, rates: Sequence[int]) -> list[nn.Module]:
        """The branches over the map itself."""
        return [Conv(c1, hidden), *(atrous(c1, hidden, rate) for rate in rates)]


class ASPPs(ASPP):
    """`ASPP` whose branches narrow the map first, and whose undilated one is 3x3; arguments as there."""

    @staticmethod
    def _parallel(c1: int, hidden: int, rates: Sequence[int]) -> list[nn.Module]:
        return [nn.Sequential(Conv(c1, hidden), atrous(hidden, hidden, rate)) for rate in (1, *rates)]


class RFB1(_Branches):
    """Branches whose kernel grows before it is dilated, as eccentric receptive fields do (RFB, arXiv:1711.07767).

    Args:
        map_reduce: input channels over those of a branch. d: rates of the three dilated branches.
        has_globel: add the branch of the map's mean.
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
            steps = [Conv(in_planes, hidden), Conv(hidden, hidden, kernel), atrous(hidden, hidden, rate)]
            branches.append(nn.Sequential(*steps))
        super().__init__(in_planes, out_planes, hidden, branches, with_mean=has_globel)


class RFB2(nn.Module):
    """A cascade of convolutions of growing dilation, every stage's output joined (after RFB, arXiv:1711.07767).

    Each stage sees the one before, so that rates 1, 2, 3 leave no holes in the receptive field.

    Args:
        map_reduce: input channels over those of a stage. d: rates of the stages after the first.
        has_globel: add the mean of the last stage.
    """

    def __init__(
        self, in_planes: int, out_planes: int, map_reduce: int = 4, d: Sequence[int] = (2, 3), has_globel: bool = False
    ) -> None:
        super().__init__()
        hidden = in_planes // map_reduce
        first = nn.Sequential(Conv(in_planes, hidden), Conv(hidden, hidden, 3))
        self.stages = nn.ModuleList([first, *(atrous(hidden, hidden, rate) for rate in d)])
        self.side = Conv(in_planes, hidden)
        self.overall = PooledConv(hidden, hidden) if has_globel else None
        self.join = Conv(hidden * (len(self.stages) + 1 + has_globel), out_planes)

    def forward(self, x: Tensor) -> Tensor:
        maps, last = [], x
        for stage in self.stages:
            last = stage(last)
            maps.append(last)
        maps.append(self.side(x))
        if self.overall is not None:
            maps.append(spread(self.overall(grid_mean(last, 1)), x))
        return self.join(torch.cat(maps, dim=1))


class PyramidPooling(nn.Module):
    """The map with its means over grids of several sizes appended (PSPNet, arXiv:1612.01105): C -> 2C channels.

    Args:
        k: sides of the grids, in cells; their number divides the channels.
    """

    def __init__(self, in_channels: int, k: Sequence[int] = POOLED_GRIDS) -> None:
        super().__init__()
        part, rest = divmod(in_channels, len(k))
        if rest:
            raise ValueError(f"{in_channels} channels cannot be shared by {len(k)} grids")
        self.grids = tuple(k)
        self.convs = nn.ModuleList(
            PooledConv(in_channels, part) if side == 1 else Conv(in_channels, part) for side in k
        )

    def forward(self, x: Tensor) -> Tensor:
        size_hw = x.shape[-2:]
        pooled = [resized(conv(grid_mean(x, side)), size_hw) for conv, side in zip(self.convs, self.grids, strict=True)]
        return torch.cat([x, *pooled], dim=1)


class DAPPM(nn.Module):
    """Pooled maps of growing windows, each refined with the one before (DDRNet, arXiv:2101.06085), with SiLU.

    Norm and activation come before each convolution, so there is nothing to fuse.

    Args:
        branch: channels of each scale.
    """

    WINDOWS = ((5, 2), (9, 4), (17, 8))  # side and stride of the averages; a global one follows

    def __init__(self, in_chan: int, branch: int, out_chan: int) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(side, stride, side // 2) for side, stride in self.WINDOWS]
        self.pools = nn.ModuleList([nn.Identity(), *pools, nn.AdaptiveAvgPool2d(1)])
        self.narrow = nn.ModuleList(
            _norm_first(in_chan, branch, 1, pooled=isinstance(pool, nn.AdaptiveAvgPool2d)) for pool in self.pools
        )
        self.refine = nn.ModuleList(_norm_first(branch, branch, 3) for _ in self.pools[1:])
        self.join = _norm_first(branch * len(self.pools), out_chan, 1)
        self.shortcut = _norm_first(in_chan, out_chan, 1)

    def forward(self, x: Tensor) -> Tensor:
        size_hw = x.shape[-2:]
        scales = [narrow(pool(x)) for narrow, pool in zip(self.narrow, self.pools, strict=True)]
        refined = scales[:1]
        for refine, scale in zip(self.refine, scales[1:], strict=True):
            refined.append(refine(resized(scale, size_hw) + refined[-1]))
        return self.join(torch.cat(refined, dim=1)) + self.shortcut(x)


def _norm_first(c1: int, c2: int, k: int, *, pooled: bool = False) -> nn.Sequential:
    """Batch norm, SiLU, convolution without bias."""
    norm = PooledNorm(c1) if pooled else nn.BatchNorm2d(c1)
    return nn.Sequential(norm, nn.SiLU(), nn.Conv2d(c1, c2, k, padding=k // 2, bias=False))


# -- heads ------------------------------------------------------------------------------------------------------------


class JointOutput(NamedTuple):
    """What a network with boxes and semantic masks gives.

    Attributes:
        detection: what the detector alone would give.
        semantic: logits (B, classes, H, W); in training a list of them where the head has auxiliary outputs.
    """

    detection: Any
    semantic: Any


def mean_logits(parts: Iterable[Tensor]) -> Tensor:
    """FP32 logits (B, n, H, W) whose class probabilities are the mean of those of several logits."""
    total, count = torch.zeros(()), 0
    for logits in parts:
        chances = logits.float().softmax(dim=1)
        total, count = total.to(chances) + chances, count + 1
    return (total / count).clamp_min(torch.finfo(total.dtype).tiny).log()


class SemanticHead(nn.Module, ABC):
    """Base of the heads: checks the inputs, and brings what a head gives to the size of the network's input.

    Args:
        nc: semantic classes.
        ch: channels of the input maps, finest first.

    Attributes:
        inputs: number of maps that the head takes.
        stride: pixels of the network's input per cell of the first map; the network sets it.

    Shape:
        logits (B, nc, H, W); in training a list of these where the head has auxiliary outputs.
    """

    inputs = 1
    stride = 8

    def __init__(self, nc: int, ch: Sequence[int]) -> None:
        super().__init__()
        if isinstance(nc, bool) or not isinstance(nc, int) or not 1 <= nc <= 255:
            raise ValueError(f"{nc!r} is not a number of classes, 1 to 255; set n_segcls in the model YAML")
        if len(ch) != self.inputs:
            raise ValueError(f"{len(ch)} input maps, {type(self).__name__} takes {self.inputs}, finest first")
        self.nc = nc

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        maps = [x] if isinstance(x, Tensor) else list(x)
        size_hw = [side * self.stride for side in maps[0].shape[-2:]]
        outputs = [resized(logits, size_hw) for logits in self.coarse_logits(maps)]
        return outputs[0] if len(outputs) == 1 else outputs

    @abstractmethod
    def coarse_logits(self, maps: list[Tensor]) -> list[Tensor]:
        """Logits before they are enlarged: the main ones, in training the auxiliary ones after them."""


class SegMaskBase(SemanticHead):
    """One map through C3 and pyramid pooling: the cheapest head of small networks.

    Args:
        n: bottlenecks. c: channels after the first block. shortcut: of its bottlenecks.
        ch: of one map, stride 8.
    """

    def __init__(self, nc: int, n: int = 1, c: int = 256, shortcut: bool = False, ch: Sequence[int] = ()) -> None:
        super().__init__(nc, ch)
        wide = int(1.5 * c)
        self.body = nn.Sequential(C3(ch[0], c, n, shortcut), C3SPP(c, wide), nn.Dropout(DROPOUT))
        self.classify = nn.Conv2d(wide, nc, 3, padding=1, bias=False)

    def coarse_logits(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.classify(self.body(maps[0]))]


class SegMaskPSP(SemanticHead):
    """Three scales joined, widened by a cascade of dilations and by pyramid pooling.

    Args:
        n, shortcut: not used. c: channels of each scale.
        ch: of three maps, strides 8, 16, 32.
    """

    inputs = 3

    def __init__(self, nc: int, n: int = 1, c: int = 128, shortcut: bool = False, ch: Sequence[int] = ()) -> None:
        super().__init__(nc, ch)
        self.narrow = nn.ModuleList(Conv(channels, c) for channels in ch)
        self.body = nn.Sequential(
            RFB2(c * len(ch), c, map_reduce=6), PyramidPooling(c), FFM(2 * c, c, is_cat=False, k=3)
        )
        self.classify = nn.Conv2d(c, nc, 1)

    def coarse_logits(self, maps: list[Tensor]) -> list[Tensor]:
        fine, *coarser = (narrow(x) for narrow, x in zip(self.narrow, maps, strict=True))
        joined = torch.cat([fine, *(resized(x, fine.shape[-2:]) for x in coarser)], dim=1)
        return [self.classify(self.body(joined))]


class SegMaskLab(SemanticHead):
    """Dilated context of a middle map with the detail of a fine one (after DeepLab v3+, arXiv:1802.02611).

    Args:
        n: the more, the wider the dilated branches: map_reduce is 5 - n, at least 1. c: half the channels of the
            context's input, and those before the last convolution. shortcut: not used.
        ch: of two maps, strides 8 and 16.
    """

    inputs = 2

    def __init__(self, nc: int, n: int = 1, c: int = 128, shortcut: bool = False, ch: Sequence[int] = ()) -> None:
        super().__init__(nc, ch)
        self.detail = nn.Sequential(Conv(ch[0], DETAIL_CHANNELS), Conv(DETAIL_CHANNELS, DETAIL_CHANNELS, 3))
        context = ASPP(2 * c, LAB_CHANNELS, has_globel=False, map_reduce=max(5 - n, 1))
        self.context = nn.Sequential(Conv(ch[1], 2 * c), context)
        self.join = FFM(DETAIL_CHANNELS + LAB_CHANNELS, LAB_CHANNELS)
        self.classify = nn.Sequential(Conv(LAB_CHANNELS, c, 3), nn.Conv2d(c, nc, 1))

    def coarse_logits(self, maps: list[Tensor]) -> list[Tensor]:
        detail, context = self.detail(maps[0]), self.context(maps[1])
        joined = self.join([detail, resized(context, detail.shape[-2:])])
        return [self.classify(joined)]


class SegMaskBiSe(SemanticHead):
    """A context path from coarse to fine joined with a detail path, with auxiliary outputs in training (BiSeNet).

    Args:
        n, c, shortcut: not used; the widths are fixed.
        ch: of three maps, strides 8, 16, 32.

    Shape:
        training: [logits, auxiliary logits of the stride-16 context, of the stride-32 context].
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

    def coarse_logits(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        at_32 = resized(self.refine_coarse(self.coarse(coarse)), middle.shape[-2:])
        at_16 = resized(self.refine_middle(self.middle(middle) + at_32), fine.shape[-2:])
        main = self.classify(self.join([self.detail(fine), at_16]))
        if not self.training:
            return [main]
        return [main, *(auxiliary(x) for auxiliary, x in zip(self.auxiliary, (at_16, at_32), strict=True))]


SEMANTIC_HEADS: dict[str, type[SemanticHead]] = {
    head.__name__: head for head in (SegMaskBase, SegMaskBiSe, SegMaskLab, SegMaskPSP)
}
