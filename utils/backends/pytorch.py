"""Checkpoints run by PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoint import load_model
from models.yolo import task_of
from utils.backends.base import Visitor
from utils.core.device import half_precision
from utils.core.logging import LOGGER

MIN_STRIDE = 32  # of the input's sides, also for graphs whose own largest stride is smaller


class PyTorchBackend:
    """A network, or an ensemble of several, in eval mode with its weights in channels_last order.

    Args:
        model: network on `device`, with `stride`, `names` and `yaml`.
        fp16: run in half precision, see `utils.core.device.half_precision`; ignored with a warning where there is none.
        names: class names, should the model have none.
    """

    fixed_hw: tuple[int, int] | None = None
    own_threads = False

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device,
        fp16: bool = False,
        names: Mapping[int, str] | None = None,
    ) -> None:
        half = half_precision(device) if fp16 else None
        if fp16 and half is None:
            LOGGER.warning(
                f"WARNING: --half is ignored: this {device.type.upper()} is fastest in FP32; "
                "CUDA has FP16, some processors with AVX512-BF16 are faster in BF16"
            )
        self.device, self.dtype = device, half or torch.float32
        self.model = model.to(dtype=self.dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        description: Any = model
        self.task = task_of(model)
        self.stride = max(int(torch.as_tensor(description.stride).max()), MIN_STRIDE)
        self.semantic = getattr(model, "semantic", None)
        self.names = names_by_number(description.names or names or {})
        self.channels = int(description.yaml.get("ch", 3))

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Visitor | None = None) -> Any:
        """Decoded rows (B, N, 5 + num_classes), or a tuple that starts with them, of (B, C, H, W) floats in [0, 1]."""
        return self.model(images, augment=augment, visualize=visualize or False)

    def warmup(self, size_hw: tuple[int, int]) -> None:
        """One forward on CUDA, where kernels are chosen at the first; nothing on other devices."""
        if self.device.type == "cuda":
            with torch.inference_mode():
                self.forward(torch.zeros(1, self.channels, *size_hw, dtype=self.dtype, device=self.device))


def load_pytorch(
    files: Sequence[str],
    *,
    device: torch.device,
    fp16: bool = False,
    names: Mapping[int, str] | None = None,
    fuse: bool = True,
) -> PyTorchBackend:
    """The checkpoints as one backend, batch norms fused unless `fuse` is off; their own names win over `names`.

    Raises:
        InputError: a file is missing or damaged.
    """
    model = load_model(list(files), device=device, fuse=fuse)
    return PyTorchBackend(model, device=device, fp16=fp16, names=names)


def names_by_number(names: Any) -> dict[int, str]:
    """Class names of a checkpoint, which old releases store as a list."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {int(number): str(name) for number, name in pairs}
