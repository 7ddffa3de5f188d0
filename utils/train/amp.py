"""Automatic mixed precision: the dtype that a device computes correctly and faster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from utils.core import distributed
from utils.core.device import is_bf16_faster, supports_bf16
from utils.core.logging import LOGGER

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
OFF = "off"
PROBE_SIZE = 256


def choose_amp(
    model: nn.Module,
    setting: str,
    device: torch.device,
    previous: str | None = None,
    *,
    agree: Callable[[Any, Any], bool],
) -> torch.dtype | None:
    """The autocast dtype of a run, None for FP32; the same on all ranks.

    Args:
        setting: `--amp`.
        previous: `format_amp` of a run that is resumed.
        agree: as in `check_amp`.
    """
    dtype = check_amp(model, select_dtype(setting, device, previous), device, agree=agree)
    return None if distributed.any_rank(dtype is None) else dtype


def select_dtype(setting: str, device: torch.device, previous: str | None = None) -> torch.dtype | None:
    """The autocast dtype of an `--amp` value on a device, or None for FP32.

    fp16, the default, is for CUDA only. bf16 is used on a CPU too if it is faster there.

    Args:
        previous: `format_amp` of a run that is resumed; a CPU keeps to it if it can, whatever a new speed trial would
            say, so that the run ends as if it had not been interrupted.
    """
    if device.type == "cuda":
        return AMP_DTYPES.get(setting)
    if previous == OFF or setting != "bf16":
        return None
    if not supports_bf16(device):
        LOGGER.warning(f"--amp bf16: this {device.type.upper()} does not compute in bf16: training in FP32")
        return None
    if previous == "bf16" or is_bf16_faster():
        return torch.bfloat16
    LOGGER.warning("--amp bf16: this CPU is faster in FP32 (measured): training in FP32")
    return None


def format_amp(dtype: torch.dtype | None) -> str:
    """The `--amp` value of an autocast dtype."""
    return next((setting for setting, amp_dtype in AMP_DTYPES.items() if amp_dtype == dtype), OFF)


@torch.no_grad()
def check_amp(
    model: nn.Module, dtype: torch.dtype | None, device: torch.device, *, agree: Callable[[Any, Any], bool]
) -> torch.dtype | None:
    """`dtype` if outputs under autocast agree with those of FP32 (`agree(exact, mixed)`), else None with a warning.

    Some GPUs (the GTX 16 series among them) compute wrong results in FP16.
    """
    if dtype is None:
        return None
    training = model.training
    images = build_probe_image(int(getattr(model, "yaml", {}).get("ch", 3))).to(device)
    exact, mixed = (_run(model.eval(), images, d) for d in (None, dtype))
    model.train(training)
    if agree(exact, mixed):
        return dtype
    name = str(dtype).removeprefix("torch.")
    LOGGER.warning(f"outputs under {name} autocast differ from FP32 on this device: training in FP32")
    return None


def build_probe_image(channels: int) -> Tensor:
    """(1, C, 256, 256) a smooth pattern in [0, 1]."""
    ramp = torch.linspace(0, 12, PROBE_SIZE)
    pattern = (ramp.sin()[:, None] * ramp.cos()[None] + 1) / 2
    return pattern.expand(1, channels, -1, -1).contiguous()


def _run(model: nn.Module, images: Tensor, dtype: torch.dtype | None) -> Any:
    """Output of the network, under autocast if a dtype is given."""
    precision: Any = torch.autocast(images.device.type, dtype=dtype) if dtype else nullcontext()
    with precision:
        return model(images)
