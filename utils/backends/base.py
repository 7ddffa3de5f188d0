"""What the engine asks of a runtime that can run a model file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Visitor = Callable[[nn.Module, Any], None]  # called with each layer and its output


class Backend(Protocol):
    """A loaded model, whichever runtime runs it.

    Attributes:
        task: what the model does: "detect", "segment", "classify" or "semantic".
        stride: both sides of the input are multiples of it.
        names: class names by number.
        channels: channels of the input.
        device: where the input is expected.
        fp16: the input is expected as float16.
        fixed_hw: the only input size the file takes, or None where any multiple of the stride goes.
    """

    task: str
    stride: int
    names: dict[int, str]
    channels: int
    device: torch.device
    fp16: bool
    fixed_hw: tuple[int, int] | None

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Visitor | None = None) -> Any:
        """Decoded output of a batch (B, C, H, W), RGB where C = 3, floats in [0, 1].

        Args:
            augment: test-time augmentation.
            visualize: called with every layer and its output.

        Raises:
            InputError: the runtime offers no test-time augmentation, or does not show its layers.
        """
        ...

    def warmup(self, size_hw: tuple[int, int]) -> None:
        """Run once on an empty picture where the first run is slower than the others."""
        ...
