"""The table of model-YAML layers: name -> class, channel rule, repeat rule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import nn

from models import common, experimental, semantic_heads


@dataclass(frozen=True)
class RowContext:
    """What a channel rule may know of its row.

    Attributes:
        inputs: channels of each map the row takes.
        num_classes, num_anchors, anchors: of the model; `anchors` holds one flat list w, h, ... per level, in pixels.
        width: factor on output channels (`width_multiple`). depth: factor on repeat numbers (`depth_multiple`).
        divisor: scaled channels are rounded up to its multiple.
        maps_ready: the inputs are output maps already, as in graphs of release 1.0.
    """

    inputs: list[int]
    num_classes: int
    num_anchors: int
    anchors: list[list[float]]
    width: float
    divisor: int = 8
    depth: float = 1.0
    maps_ready: bool = False

    @property
    def map_channels(self) -> int:
        """Channels of a detection output: box, objectness and classes for every anchor."""
        return self.num_anchors * (self.num_classes + 5)

    def scaled(self, channels: Any) -> int:
        """`channels` times the width, rounded up to the divisor; output maps keep theirs."""
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"{channels!r} is not a number of channels")
        if channels == self.map_channels:
            return channels
        return math.ceil(channels * self.width / self.divisor) * self.divisor


def scaled_repeats(number: int, depth: float) -> int:
    """How often a row's layer is built: numbers above 1 scale with the depth, down to 1."""
    return max(round(number * depth), 1) if number > 1 else number


ChannelRule = Callable[[list[Any], RowContext], tuple[list[Any], int]]  # YAML args -> constructor args, output channels


@dataclass(frozen=True)
class LayerSpec:
    """One entry of the table.

    Attributes:
        module: class to build.
        rule: turns the row's arguments into the constructor's and tells the output channels.
        repeats_inside: the repeat number is the constructor's third argument; otherwise the layer is built n times.
        many_inputs: the layer takes a list of maps.
        supplied: constructor parameters that the rule fills in, so that the row does not write them.
    """

    module: type[nn.Module]
    rule: ChannelRule
    repeats_inside: bool = False
    many_inputs: bool = False
    supplied: tuple[str, ...] = ()

    def usage(self) -> str:
        """The arguments a row may write, such as `[c2, shortcut=True, g=1, e=0.5]`."""
        hidden = {*self.supplied, *(["n"] if self.repeats_inside else [])}
        parameters = inspect.signature(self.module).parameters.values()
        shown = [
            p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters if p.name not in hidden
        ]
        return f"[{', '.join(shown)}]"


def widened(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """[c2, ...] -> (c1, scaled c2, ...)."""
    if not args:
        raise ValueError("the number of output channels is missing")
    out = context.scaled(args[0])
    return [context.inputs[0], out, *args[1:]], out


def unchanged(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Arguments as written, channels as they come."""
    return args, context.inputs[0]


def normalized(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """The layer wants the number of channels and keeps it."""
    return [context.inputs[0]], context.inputs[0]


def joined(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Concatenation: channels add up."""
    return args, sum(context.inputs)


def contracted(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Space to channels by a gain."""
    return args, context.inputs[0] * _gain(args) ** 2


def expanded(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Channels to space by a gain."""
    cells = _gain(args) ** 2
    if context.inputs[0] % cells:
        raise ValueError(f"{context.inputs[0]} channels cannot fill {cells} cells each")
    return args, context.inputs[0] // cells


def _gain(args: list[Any]) -> int:
    gain = args[0] if args else 2
    if isinstance(gain, bool) or not isinstance(gain, int) or gain < 1:
        raise ValueError(f"gain {gain!r} is not a positive integer")
    return gain


def detection(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """[nc, anchors, ...] -> (nc, anchor lists, ..., input channels); an anchor number becomes placeholders."""
    if len(args) < 2:
        raise ValueError("nc and anchors are missing")
    nc, anchors, *rest = args
    if isinstance(anchors, int) and not isinstance(anchors, bool):
        anchors = [[float(v) for v in range(2 * anchors)] for _ in context.inputs]
    if not isinstance(anchors, list) or len(anchors) != len(context.inputs):
        given = len(anchors) if isinstance(anchors, list) else repr(anchors)
        raise ValueError(f"{given} anchor lists for {len(context.inputs)} input maps")
    return [nc, anchors, *rest, [] if context.maps_ready else context.inputs], context.inputs[-1]


def segmentation(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """As `detection`, with [nc, anchors, masks, prototype channels]; the last scales with the width."""
    if len(args) > 3:
        args = [*args[:3], context.scaled(args[3]), *args[4:]]
    return detection(args, context)


def pixel_classes(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """[n_segcls, n, c, shortcut] -> (classes, n by the depth, c by the width, shortcut, input channels)."""
    if not 3 <= len(args) <= 4:
        raise ValueError("expected [n_segcls, n, c, shortcut]")
    classes, repeats, channels, *rest = args
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"n {repeats!r} is not a positive integer")
    shortcut = rest[0] if rest else False
    deep = scaled_repeats(repeats, context.depth)
    return [classes, deep, context.scaled(channels), shortcut, context.inputs], classes


def _scaling(module: type[nn.Module], *, repeats_inside: bool = False) -> LayerSpec:
    first = next(iter(inspect.signature(module).parameters))
    return LayerSpec(module, widened, repeats_inside, supplied=(first,))


LAYERS: dict[str, LayerSpec] = {
    **{
        module.__name__: _scaling(module)
        for module in (
            common.Conv,
            common.DWConv,
            common.DWConvTranspose2d,
            common.Bottleneck,
            common.CrossConv,
            common.C3SPP,
            common.SPP,
            common.SPPF,
            common.Focus,
            common.GhostConv,
            common.GhostBottleneck,
            experimental.MixConv2d,
            semantic_heads.ARM,
            semantic_heads.ASPP,
            semantic_heads.ASPPs,
            semantic_heads.RFB1,
            semantic_heads.RFB2,
        )
    },
    **{
        module.__name__: _scaling(module, repeats_inside=True)
        for module in (common.BottleneckCSP, common.C3, common.C3x, common.C3TR, common.C3Ghost)
    },
    "nn.Conv2d": _scaling(nn.Conv2d),
    "nn.ConvTranspose2d": _scaling(nn.ConvTranspose2d),
    "nn.BatchNorm2d": LayerSpec(nn.BatchNorm2d, normalized, supplied=("num_features",)),
    "Concat": LayerSpec(common.Concat, joined, many_inputs=True),
    "Sum": LayerSpec(experimental.Sum, unchanged, many_inputs=True),
    "Contract": LayerSpec(common.Contract, contracted),
    "Expand": LayerSpec(common.Expand, expanded),
    **{
        name: LayerSpec(head, pixel_classes, many_inputs=True, supplied=("ch",))
        for name, head in semantic_heads.SEMANTIC_HEADS.items()
    },
}


def layer_spec(name: Any, layers: Mapping[str, LayerSpec]) -> LayerSpec:
    """The entry of a YAML layer name; any other `nn.Name` is built as written and keeps its channels.

    Raises:
        ValueError: no such layer; the message lists near misses.
    """
    if isinstance(name, str):
        if name in layers:
            return layers[name]
        module = getattr(nn, name.removeprefix("nn."), None) if name.startswith("nn.") else None
        if isinstance(module, type) and issubclass(module, nn.Module):
            return LayerSpec(module, unchanged)
    names = [*layers, *(f"nn.{n}" for n in nn.modules.__all__)]
    folded = {known.lower(): known for known in names}
    near = [folded[n] for n in get_close_matches(str(name).lower(), folded, n=3)]
    hint = f"near: {', '.join(near)}" if near else f"known: {', '.join(layers)}"
    raise ValueError(f"unknown layer {name!r}; {hint}")
