"""Layer table of model YAMLs: name -> class, channel rule, repeat rule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from typing import Any

from torch import nn

from models import common, experimental, semantic_heads
from utils.core.limits import describe_excess

MAX_ANCHORS = 1_000  # per level
SEQUENCE_LAYERS = (nn.RNNBase, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)


@dataclass(frozen=True)
class RowContext:
    """What a channel rule knows about its row.

    Attributes:
        inputs: channels of each input.
        num_classes, num_anchors, anchors: of the model; `anchors` holds one flat list [w, h, ...] per level, in pixels.
        width: factor for output channels (`width_multiple`). depth: factor for repeats (`depth_multiple`).
        divisor: scaled channels are rounded up to a multiple of it.
        inputs_are_preds: the inputs are raw predictions, as in graphs of release 1.0.
    """

    inputs: list[int]
    num_classes: int
    num_anchors: int
    anchors: list[list[float]]
    width: float
    divisor: int = 8
    depth: float = 1.0
    inputs_are_preds: bool = False

    @property
    def pred_channels(self) -> int:
        """Channels of raw predictions: box, objectness and classes for every anchor."""
        return self.num_anchors * (self.num_classes + 5)

    def scale_channels(self, channels: Any) -> int:
        """Multiply by the width and round up to the divisor; channels of raw predictions are not scaled."""
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"{channels!r} is not a number of channels")
        if channels == self.pred_channels:
            return channels
        return math.ceil(channels * self.width / self.divisor) * self.divisor


def scale_repeats(number: int, depth: float) -> int:
    """Scale a repeat number above 1 by the depth, to at least 1."""
    return max(round(number * depth), 1) if number > 1 else number


ChannelRule = Callable[[list[Any], RowContext], tuple[list[Any], int]]  # YAML args -> constructor args, output channels


@dataclass(frozen=True)
class LayerSpec:
    """One entry of the layer table.

    Attributes:
        module: class to build.
        rule: turns the arguments of a row into those of the constructor and the output channels.
        repeats_inside: the constructor's third argument is the number of repeats; otherwise the layer is built n times.
        many_inputs: the layer takes a list of inputs.
        supplied: constructor parameters that the rule fills in and rows leave out.
    """

    module: type[nn.Module]
    rule: ChannelRule
    repeats_inside: bool = False
    many_inputs: bool = False
    supplied: tuple[str, ...] = ()

    def usage(self) -> str:
        """The arguments of a row, such as `[c2, shortcut=True, g=1, e=0.5]`."""
        hidden = {*self.supplied, *(["n"] if self.repeats_inside else [])}
        parameters = inspect.signature(self.module).parameters.values()
        shown = [
            p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters if p.name not in hidden
        ]
        return f"[{', '.join(shown)}]"


def resolve_scaled(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Layers with scaled output channels: [c2, ...] -> (c1, scaled c2, ...)."""
    if not args:
        raise ValueError("the number of output channels is missing")
    out = context.scale_channels(args[0])
    return [context.inputs[0], out, *args[1:]], out


def resolve_unchanged(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Layers that keep the channels and take the arguments as written."""
    return args, context.inputs[0]


def resolve_norm(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Normalization layers, whose only argument is the number of channels."""
    return [context.inputs[0]], context.inputs[0]


def resolve_concat(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Concatenation: the sum of the input channels."""
    return args, sum(context.inputs)


def resolve_contract(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Space to channels by a gain."""
    return args, context.inputs[0] * _parse_gain(args) ** 2


def resolve_expand(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """Channels to space by a gain."""
    cells = _parse_gain(args) ** 2
    if context.inputs[0] % cells:
        raise ValueError(f"{context.inputs[0]} channels are not divisible by {cells}")
    return args, context.inputs[0] // cells


def _parse_gain(args: list[Any]) -> int:
    gain = args[0] if args else 2
    if isinstance(gain, bool) or not isinstance(gain, int) or gain < 1:
        raise ValueError(f"gain {gain!r} is not a positive integer")
    return gain


def resolve_detect(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """[nc, anchors, ...] -> (nc, anchor lists, ..., input channels); a number of anchors becomes placeholders."""
    if len(args) < 2:
        raise ValueError("nc and anchors are missing")
    nc, anchors, *rest = args
    if isinstance(nc, bool) or not isinstance(nc, Integral) or nc < 1:
        raise ValueError(f"{nc!r} is not a number of classes")
    if isinstance(anchors, int) and not isinstance(anchors, bool):
        if excess := describe_excess("anchors per level", anchors, MAX_ANCHORS):
            raise ValueError(excess)
        anchors = [[float(v) for v in range(2 * anchors)] for _ in context.inputs]
    if not isinstance(anchors, list) or len(anchors) != len(context.inputs):
        count = len(anchors) if isinstance(anchors, list) else repr(anchors)
        raise ValueError(f"{count} anchor lists for {len(context.inputs)} inputs")
    if not all(isinstance(sizes, list) and sizes for sizes in anchors):
        raise ValueError("no anchors")
    return [nc, anchors, *rest, [] if context.inputs_are_preds else context.inputs], context.inputs[-1]


def resolve_segment(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """`resolve_detect` for [nc, anchors, mask coefficients, prototype channels]; the last is scaled by the width."""
    if len(args) > 3:
        args = [*args[:3], context.scale_channels(args[3]), *args[4:]]
    return resolve_detect(args, context)


def resolve_semantic(args: list[Any], context: RowContext) -> tuple[list[Any], int]:
    """[n_segcls, n, c, shortcut] -> (classes, n scaled by depth, c scaled by width, shortcut, input channels)."""
    if not 3 <= len(args) <= 4:
        raise ValueError("expected [n_segcls, n, c, shortcut]")
    classes, repeats, channels, *rest = args
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"n {repeats!r} is not a positive integer")
    shortcut = rest[0] if rest else False
    repeats = scale_repeats(repeats, context.depth)
    return [classes, repeats, context.scale_channels(channels), shortcut, context.inputs], classes


def _make_scaled_spec(module: type[nn.Module], *, repeats_inside: bool = False) -> LayerSpec:
    first = next(iter(inspect.signature(module).parameters))
    return LayerSpec(module, resolve_scaled, repeats_inside, supplied=(first,))


LAYERS: dict[str, LayerSpec] = {
    **{
        module.__name__: _make_scaled_spec(module)
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
        module.__name__: _make_scaled_spec(module, repeats_inside=True)
        for module in (common.BottleneckCSP, common.C3, common.C3x, common.C3TR, common.C3Ghost)
    },
    "nn.Conv2d": _make_scaled_spec(nn.Conv2d),
    "nn.ConvTranspose2d": _make_scaled_spec(nn.ConvTranspose2d),
    "nn.BatchNorm2d": LayerSpec(nn.BatchNorm2d, resolve_norm, supplied=("num_features",)),
    "Concat": LayerSpec(common.Concat, resolve_concat, many_inputs=True),
    "Sum": LayerSpec(experimental.Sum, resolve_unchanged, many_inputs=True),
    "Contract": LayerSpec(common.Contract, resolve_contract),
    "Expand": LayerSpec(common.Expand, resolve_expand),
    **{
        name: LayerSpec(head, resolve_semantic, many_inputs=True, supplied=("ch",))
        for name, head in semantic_heads.SEMANTIC_HEADS.items()
    },
}


def find_layer_spec(name: Any, layers: Mapping[str, LayerSpec]) -> LayerSpec:
    """Look up a layer name of a model YAML; any other `nn.Name` is built as written and keeps its channels.

    Raises:
        ValueError: unknown layer; the message lists near misses.
    """
    if isinstance(name, str):
        if name in layers:
            return layers[name]
        if module := find_torch_layer(name):
            return LayerSpec(module, resolve_unchanged)
    names = [*layers, *(f"nn.{n}" for n in nn.modules.__all__)]
    by_lower_case = {known.lower(): known for known in names}
    near = [by_lower_case[n] for n in get_close_matches(str(name).lower(), by_lower_case, n=3)]
    hint = f"near: {', '.join(near)}" if near else f"known: {', '.join(layers)}"
    raise ValueError(f"unknown layer {str(name)[:80]!r}; {hint}")


def find_torch_layer(name: str) -> type[nn.Module] | None:
    """The layer of torch that `nn.Name` names; None if there is none, or it takes sequences instead of feature maps."""
    kind = getattr(nn, name.removeprefix("nn."), None) if name.startswith("nn.") else None
    is_layer = isinstance(kind, type) and issubclass(kind, nn.Module) and not issubclass(kind, SEQUENCE_LAYERS)
    return kind if is_layer else None
