"""A pass through a network that gives the sizes of its outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from models import common
from models.summary import run_on_meta

MAX_SCALE, MAX_PADDING, MAX_KERNEL = 4.0, 16, 15
MAX_CHANNELS = 512  # of the image
LEAVES = (
    nn.BatchNorm2d,
    nn.Dropout,
    nn.Identity,
    nn.Linear,
    nn.MaxPool2d,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.SiLU,
)
CONTAINERS = (nn.Sequential, nn.ModuleList)
BLOCKS = tuple(
    kind
    for kind in vars(common).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == common.__name__
)


def probe(model: nn.Module, size_hw: tuple[int, int], heads: tuple[type[nn.Module], ...], **options: Any) -> Any:
    """Run the model on one empty image, without side effects; `options` are passed to its forward.

    Networks of the usual layers compute it: that takes milliseconds, but the first pass on meta tensors imports torch's
    compiler, for a second. All others, whose outputs may be of any size, are run on meta tensors.

    Args:
        heads: last layers that keep to the sizes of their inputs.
    """
    known = (type(model), *heads, *BLOCKS, *CONTAINERS)
    channels = int(getattr(model, "yaml", {}).get("ch", 3))
    is_usual = all(type(module) in known or is_bounded(module) for module in model.modules())
    if not is_usual or channels > MAX_CHANNELS:
        return run_on_meta(model, size_hw, **options)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # batch norms count in training mode
    weight = next(model.parameters())
    image = torch.zeros(1, channels, *size_hw, dtype=weight.dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return functional_call(model, buffers, (image,), options)


def is_bounded(layer: nn.Module) -> bool:
    """Whether a layer of torch computes on the CPU, and its output is not much larger than its input and weights."""
    if any(tensor.device.type != "cpu" for tensor in layer.parameters(recurse=False)):
        return False
    if type(layer) is nn.Conv2d:
        limits = ((layer.padding, MAX_PADDING), (layer.kernel_size, MAX_KERNEL))
        return all(
            len(pair) == 2 and all(isinstance(value, int) and 0 <= value <= limit for value in pair)
            for pair, limit in limits
        )
    if type(layer) is nn.Upsample:
        scale = layer.scale_factor
        return layer.size is None and isinstance(scale, int | float) and 0 < scale <= MAX_SCALE
    if type(layer) is nn.AdaptiveAvgPool2d:
        return layer.output_size in (1, (1, 1))
    return type(layer) in LEAVES
