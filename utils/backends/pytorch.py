"""Checkpoints, run by PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.backends.base import Visitor
from utils.backends.threads import ThreadTuner, running
from utils.core.device import get_half_dtype
from utils.core.logging import LOGGER
from utils.tasks.networks import load_model

MIN_STRIDE = 32  # of the input size, also for networks with a smaller stride


class PyTorchBackend:
    """A network or an ensemble, in evaluation mode and channels_last order.

    Args:
        model: network on `device`, with `stride`, `names` and `yaml`.
        fp16: run in half precision, see `utils.core.device.get_half_dtype`; ignored with a warning if unsupported.
        names: class names for models without names.

    Attributes:
        threads: chooses the number of CPU threads; None for that of torch.
    """

    fixed_hw: tuple[int, int] | None = None
    has_thread_pool = False
    threads: ThreadTuner | None = None

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device,
        fp16: bool = False,
        names: Mapping[int, str] | None = None,
    ) -> None:
        half = get_half_dtype(device) if fp16 else None
        if fp16 and half is None:
            LOGGER.warning(
                f"WARNING: --half is ignored: this {device.type.upper()} is fastest in FP32; "
                "CUDA supports FP16, and some CPUs with AVX512-BF16 are faster in BF16"
            )
        self.device, self.dtype = device, half or torch.float32
        self.model = model.to(dtype=self.dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        description: Any = model
        self.task = getattr(description, "task", "detect")
        self.stride = max(int(torch.as_tensor(description.stride).max()), MIN_STRIDE)
        self.semantic = getattr(model, "semantic", None)
        known = to_names_dict(description.names or names or {})
        self.names = description.names if description.names == known else known  # the same: programs rename classes
        self.channels = int(description.yaml.get("ch", 3))

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Visitor | None = None) -> Any:
        """See `Backend.forward`."""
        with running(self.threads, images.shape):
            return self.model(images, augment=augment, visualize=visualize or False)

    def warmup(self, size_hw: tuple[int, int]) -> None:
        """Run once on CUDA, where the first forward pass selects kernels; no-op on other devices."""
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
    """Load checkpoints as one backend, with fused batch norms if `fuse`; their class names precede `names`.

    Raises:
        InputError: a file is missing or damaged.
    """
    model = load_model(list(files), device=device, fuse=fuse)
    return PyTorchBackend(model, device=device, fp16=fp16, names=names)


def to_names_dict(names: Any) -> dict[int, str]:
    """Class names by number; old checkpoints store a list."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {int(number): str(name) for number, name in pairs}
