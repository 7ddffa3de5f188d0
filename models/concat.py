"""Channel concatenation with contiguous gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ContiguousGradConcat(torch.autograd.Function):
    """Channel concatenation of (B, C_i, H, W) whose gradients are contiguous in channels_last order.

    `torch.cat` returns gradients that are views of one tensor. In channels_last order such a view is strided, and the
    SiLU backward that reads it next is six times slower on a CPU for 16 or 32 channels (4.6 instead of 0.7 ms for a
    batch of 16x16x64x64 in bf16; the copy takes 0.3 ms).
    """

    @staticmethod
    def forward(ctx: Any, *feature_maps: Tensor) -> Tensor:
        ctx.channels = [feature_map.shape[1] for feature_map in feature_maps]
        return torch.cat(feature_maps, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in grads[0].split(ctx.channels, dim=1))


def concat_channels(feature_maps: Sequence[Tensor]) -> Tensor:
    """`torch.cat` along channels; with contiguous gradients when training on the CPU in channels_last order."""
    first = feature_maps[0]
    trains_on_cpu = torch.is_grad_enabled() and first.requires_grad and first.device.type == "cpu"
    if trains_on_cpu and first.is_contiguous(memory_format=torch.channels_last) and not torch.compiler.is_compiling():
        output: Tensor = ContiguousGradConcat.apply(*feature_maps)  # type: ignore[no-untyped-call]
        return output
    return torch.cat(list(feature_maps), dim=1)
