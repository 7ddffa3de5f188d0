"""Blocks of YOLOv5 networks. Official checkpoints fix class names, argument order and attribute names.

All blocks map (B, C, H, W) to (B, C', H', W'). Unpickled instances have not run `__init__`, so `forward` may only use
attributes that are stored in checkpoints.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.concat import concat_channels
from utils.core.lazy import OUTSIDE, lazy_exports
from utils.core.logging import LOGGER as LOGGER  # other programs import it from here
from utils.ops.nms import non_max_suppression


def compute_same_padding(kernel: int | Sequence[int], dilation: int = 1) -> int | list[int]:
    """Padding that keeps the size of a feature map for an odd kernel at stride 1."""
    if isinstance(kernel, int):
        return (dilation * (kernel - 1) + 1) // 2
    return [(dilation * (side - 1) + 1) // 2 for side in kernel]


def autopad(k: int | Sequence[int], p: int | Sequence[int] | None = None, d: int = 1) -> int | Sequence[int]:
    """Padding `p`, or if that is None the padding that keeps the size for kernel size(s) `k` and dilation `d`."""
    return compute_same_padding(k, d) if p is None else p


class Conv(nn.Module):
    """Convolution without bias, batch normalization, activation.

    Args:
        c1, c2: input and output channels.
        k, s, p, g, d: kernel side(s), stride, padding (None keeps the size at stride 1), groups, dilation.
        act: True for the model's activation, a module, or anything else for no activation.

    Attributes:
        bn: None after `fuse`.
    """

    default_act: nn.Module = nn.SiLU()

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int | Sequence[int] = 1,
        s: int | Sequence[int] = 1,
        p: int | Sequence[int] | None = None,
        g: int = 1,
        d: int = 1,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        padding = compute_same_padding(k, d) if p is None else p
        self.conv = nn.Conv2d(c1, c2, k, s, padding, dilation=d, groups=g, bias=False)  # type: ignore[arg-type]
        self.bn: nn.BatchNorm2d | None = nn.BatchNorm2d(c2)
        activation = self.default_act if act is True else act
        self.act = activation if isinstance(activation, nn.Module) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(x if self.bn is None else self.bn(x))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """Forward pass of a fused block; other tools call it by this name."""
        return self.act(self.conv(x))

    fuseforward = forward_fuse  # name up to release 5.0

    @torch.no_grad()
    def fuse(self) -> None:
        """Fuse the batch norm (running statistics) into the convolution; no-op if already fused."""
        if self.bn is None:
            return
        self.conv, self.bn = fuse_conv_bn(self.conv, self.bn), None


def fuse_conv_bn(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution with bias equal to `norm(conv(x))` in evaluation mode; computed in float64."""
    if norm.running_var is None or norm.running_mean is None:
        raise ValueError("cannot fuse a batch norm without running statistics")
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = 0 if norm.bias is None else norm.bias.double()
    conv_bias = 0 if conv.bias is None else conv.bias.double()
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    bias = (conv_bias - norm.running_mean.double()) * scale + shift
    fused = copy.copy(conv)  # keeps stride, padding, dilation and groups
    fused._parameters = {}
    for name, value in (("weight", weight), ("bias", bias)):
        fused.register_parameter(name, nn.Parameter(value.to(conv.weight.dtype), conv.weight.requires_grad))
    return fused


class DWConv(Conv):
    """Depth-wise `Conv`; the number of groups is the greatest common divisor of the channels."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, d: int = 1, act: bool | nn.Module = True) -> None:
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), d=d, act=act)


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depth-wise transposed convolution; `p1` input padding, `p2` output padding."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0) -> None:
        super().__init__(c1, c2, k, s, p1, p2, groups=math.gcd(c1, c2))


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolution with a residual connection if `shortcut` is set and c1 == c2."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1)
        self.cv2 = Conv(hidden, c2, 3, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        out = self.cv2(self.cv1(x))
        return out + x if self.add else out


class CrossConv(nn.Module):
    """A k x k convolution factorized into 1 x k and k x 1."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s))
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        out = self.cv2(self.cv1(x))
        return out + x if self.add else out


class BottleneckCSP(nn.Module):
    """Cross-stage partial block (Wang et al. 2019, arXiv:1911.11929): bottlenecks on half of the channels."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1)
        self.cv2 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c2, 1)
        self.bn = nn.BatchNorm2d(2 * hidden)
        self.act: nn.Module = nn.SiLU()
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        features = torch.cat([self.cv3(self.m(self.cv1(x))), self.cv2(x)], dim=1)
        return self.cv4(self.act(self.bn(features)))


class C3(nn.Module):
    """Cross-stage partial block with three convolutions; subclasses replace the inner blocks `m`."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1)
        self.cv2 = Conv(c1, hidden, 1)
        self.cv3 = Conv(2 * hidden, c2, 1)
        self.m = self._build_inner(hidden, n, shortcut, g)

    def _build_inner(self, channels: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return nn.Sequential(*(Bottleneck(channels, channels, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.m(self.cv1(x)), self.cv2(x)]
        return self.cv3(concat_channels(branches) if self.training else torch.cat(branches, dim=1))


class C3x(C3):
    """C3 with factorized 3x3 convolutions."""

    def _build_inner(self, channels: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return nn.Sequential(*(CrossConv(channels, channels, 3, 1, g, 1.0, shortcut) for _ in range(n)))


class C3Ghost(C3):
    """C3 with ghost bottlenecks."""

    def _build_inner(self, channels: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return nn.Sequential(*(GhostBottleneck(channels, channels) for _ in range(n)))


class C3TR(C3):
    """C3 with a transformer of `n` layers and four attention heads."""

    def _build_inner(self, channels: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return TransformerBlock(channels, channels, 4, n)


class C3SPP(C3):
    """C3 with spatial pyramid pooling."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ) -> None:
        super().__init__(c1, c2, n, shortcut, g, e)
        hidden = int(c2 * e)
        self.m = SPP(hidden, hidden, k)


class SPP(nn.Module):
    """Spatial pyramid pooling: max pools of several sizes, concatenated (He et al. 2014, arXiv:1406.4729)."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1)
        self.cv2 = Conv(hidden * (len(k) + 1), c2, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(side, stride=1, padding=side // 2) for side in k)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))


class SPPF(nn.Module):
    """Fast SPP: one max pool applied three times has windows k, 2k-1 and 3k-2; k=5 equals SPP(k=(5, 9, 13))."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1)
        self.cv2 = Conv(hidden * 4, c2, 1)
        self.m = nn.MaxPool2d(k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        return self.cv2(torch.cat(maps, dim=1))


class Focus(nn.Module):
    """Space to depth by two, then a `Conv` (stem of releases up to 5.0)."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, act=act)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(corners, dim=1))


class GhostConv(nn.Module):
    """Half of the channels by convolution, the others from these by a depth-wise 5x5 (Han et al., arXiv:1911.11907)."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool | nn.Module = True) -> None:
        super().__init__()
        half = c2 // 2
        self.cv1 = Conv(c1, half, k, s, g=g, act=act)
        self.cv2 = Conv(half, half, 5, g=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.cv1(x)
        return torch.cat([primary, self.cv2(primary)], dim=1)


class GhostBottleneck(nn.Module):
    """Two ghost convolutions with an optional stride between, and a shortcut (arXiv:1911.11907, fig. 3)."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        half, downsamples = c2 // 2, s == 2
        downsample = DWConv(half, half, k, s, act=False) if downsamples else nn.Identity()
        self.conv = nn.Sequential(GhostConv(c1, half), downsample, GhostConv(half, c2, act=False))
        self.shortcut: nn.Module = nn.Identity()
        if downsamples:
            self.shortcut = nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv(x)


class TransformerLayer(nn.Module):
    """Self-attention and two linear layers, with residual connections and without norms (after arXiv:2010.11929).

    Shape:
        (L, B, c) -> (L, B, c), L positions.
    """

    def __init__(self, c: int, num_heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(c, c, bias=False) for _ in range(3))
        self.ma = nn.MultiheadAttention(c, num_heads)
        self.fc1, self.fc2 = (nn.Linear(c, c, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        in_parts = torch.onnx.is_in_onnx_export()  # without the fused operator, which ONNX has from opset 14
        attended, _ = self.ma(self.q(x), self.k(x), self.v(x), need_weights=in_parts)
        x = x + attended
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """A transformer over the cells of a feature map, with a learned linear position term."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.c2 = c2
        self.linear = nn.Linear(c2, c2)
        layers = [TransformerLayer(c2, num_heads) for _ in range(num_layers)]
        self.tr = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        cells = x.flatten(2).permute(2, 0, 1)  # (H*W, B, C)
        cells = self.tr(cells + self.linear(cells))
        return cells.permute(1, 2, 0).reshape(x.shape)


class Contract(nn.Module):
    """Space to depth: (B, C, H, W) -> (B, C*gain*gain, H/gain, W/gain), channels ordered (row, column, C)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        gain = self.gain
        tiles = x.reshape(batch, channels, height // gain, gain, width // gain, gain)
        return tiles.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


class Expand(nn.Module):
    """Depth to space, the inverse of `Contract`: (B, C, H, W) -> (B, C/gain/gain, H*gain, W*gain)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        gain = self.gain
        tiles = x.reshape(batch, gain, gain, channels // gain**2, height, width)
        return tiles.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


class Concat(nn.Module):
    """Concatenate a list of tensors along a dimension."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(x), dim=self.d)


class Proto(nn.Module):
    """Mask prototypes at twice the input's resolution (YOLACT, Bolya et al. 2019, arXiv:1904.02689)."""

    def __init__(self, c1: int, c_: int = 256, c2: int = 32) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c_, 3)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.cv2 = Conv(c_, c_, 3)
        self.cv3 = Conv(c_, c2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Classify(nn.Module):
    """Classification head: (B, c1, H, W), or a list of feature maps to concatenate, -> (B, c2) logits."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1) -> None:
        super().__init__()
        num_features = 1280
        self.conv = Conv(c1, num_features, k, s, p, g)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(p=0.0, inplace=True)
        self.linear = nn.Linear(num_features, c2)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        x = x if isinstance(x, Tensor) else torch.cat(list(x), dim=1)
        pooled = self.pool(self.conv(x)).flatten(1)
        return self.linear(self.drop(pooled))


class NMS(nn.Module):
    """Non-maximum suppression as the last layer of a network (releases up to 5.0).

    Attributes:
        conf, iou, classes: thresholds, and classes to keep; None keeps all.

    Shape:
        output of a detection head -> list of (n, 6) x1, y1, x2, y2, score, class for each image.
    """

    conf = 0.25
    iou = 0.45
    classes: list[int] | None = None

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        return non_max_suppression(x[0], conf_thres=self.conf, iou_thres=self.iou, classes=self.classes)


LAZY_EXPORTS = {  # names that other programs import from here, but that belong to other modules
    "AutoShape": "utils.predict.autoshape",
    "DetectMultiBackend": "utils.predict.multi_backend",
    "Detections": "utils.predict.detections",
    **dict.fromkeys(
        ("ARM", "ASPP", "ASPPs", "Attention", "DAPPM", "FFM", "PyramidPooling", "RFB1", "RFB2"), "models.semantic_heads"
    ),
    **dict.fromkeys(
        (
            *("ROOT", "Profile", "check_requirements", "check_suffix", "check_version", "colorstr", "increment_path"),
            *("is_ascii", "is_notebook", "make_divisible", "scale_boxes", "scale_coords", "xywh2xyxy", "xyxy2xywh"),
            "yaml_load",
        ),
        "utils.general",
    ),
    **dict.fromkeys(("Annotator", "color_list", "colors", "plot_one_box", "save_one_box"), "utils.plots"),
    **dict.fromkeys(("copy_attr", "smart_inference_mode", "time_sync", "time_synchronized"), "utils.torch_utils"),
    "exif_transpose": "utils.dataloaders",
    "letterbox": "utils.augmentations",
    **{name: OUTSIDE[name] for name in ("Image", "OrderedDict", "Path", "amp", "cv2", "json", "namedtuple", "np")},
    **{name: OUTSIDE[name] for name in ("pd", "platform", "warnings")},
}
RENAMED = {"autoShape": "AutoShape"}  # name up to release 5.0
_get_export = lazy_exports(__name__, LAZY_EXPORTS | {"requests": OUTSIDE["requests"]})  # which may be missing
INTERNAL = {"Any", "OUTSIDE", "Sequence", "annotations", "copy", "lazy_exports"}
__all__ = [name for name in globals() if name[0] != "_" and name not in INTERNAL]
__all__ += [*LAZY_EXPORTS, *RENAMED]


def __getattr__(name: str) -> Any:
    return _get_export(RENAMED.get(name, name))
