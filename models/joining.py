"""Concatenation of maps whose gradients come back dense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class DenseGradients(torch.autograd.Function):
    """Maps (B, C_i, H, W) joined along their channels; each gets a gradient without gaps between its pixels.

    The gradients of `torch.cat` are windows of the whole one. In channels_last order their pixels lie apart, and the
    derivative of SiLU that reads them next is six times as slow for 16 or 32 channels on a processor (4.6 instead of
    0.7 ms for 16 maps of 16x64x64 in bf16; the copy takes 0.3).
    """

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.channels = [part.shape[1] for part in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            part.contiguous(memory_format=torch.channels_last) for part in gradients[0].split(ctx.channels, dim=1)
        )


def join_maps(maps: Sequence[Tensor]) -> Tensor:
    """(B, sum of C_i, H, W); gradients are kept dense where a network is trained on the CPU in channels_last order."""
    first = maps[0]
    trained = torch.is_grad_enabled() and first.requires_grad and first.device.type == "cpu"
    if trained and first.is_contiguous(memory_format=torch.channels_last) and not torch.compiler.is_compiling():
        joined: Tensor = DenseGradients.apply(*maps)  # type: ignore[no-untyped-call]
        return joined
    return torch.cat(list(maps), dim=1)
