"""Whether mixed precision can be trusted on this device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from utils.core.device import bf16_pays, computes_in_bf16
from utils.core.logging import LOGGER

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
OFF = "off"
PROBE_SIDE = 256


def wanted_dtype(setting: str, device: torch.device, begun: str | None = None) -> torch.dtype | None:
    """The autocast dtype of an `--amp` value, or None for FP32.

    The default (fp16) concerns CUDA only. bf16 is used on a CPU too, where the processor is faster in it.

    Args:
        begun: what `setting_of` said of a run that is resumed; a CPU goes on in it if it can, whatever a new trial of
            its speed would say, so that the run ends as if it had not been stopped.
    """
    if device.type == "cuda":
        return AMP_DTYPES.get(setting)
    if begun == OFF or setting != "bf16":
        return None
    if not computes_in_bf16(device):
        LOGGER.warning(f"--amp bf16: this {device.type.upper()} does not compute in bf16: training in FP32")
        return None
    if begun == "bf16" or bf16_pays():
        return torch.bfloat16
    LOGGER.warning("--amp bf16: this CPU is faster in FP32 (measured): training in FP32")
    return None


def setting_of(dtype: torch.dtype | None) -> str:
    """The `--amp` value that stands for an autocast dtype."""
    return next((setting for setting, named in AMP_DTYPES.items() if named == dtype), OFF)


@torch.no_grad()
def checked_amp(
    model: nn.Module, dtype: torch.dtype | None, device: torch.device, *, agree: Callable[[Any, Any], bool]
) -> torch.dtype | None:
    """`dtype` if outputs under autocast agree with those of FP32 (`agree(exact, mixed)`), else None with a warning.

    Some GPUs (the GTX 16 series among them) compute nonsense in FP16; this costs two forward passes to find out.
    """
    if dtype is None:
        return None
    training = model.training
    images = probe_image(int(getattr(model, "yaml", {}).get("ch", 3))).to(device)
    exact, mixed = (_outputs(model.eval(), images, d) for d in (None, dtype))
    model.train(training)
    if agree(exact, mixed):
        return dtype
    LOGGER.warning(
        f"outputs under {str(dtype).removeprefix('torch.')} autocast differ from FP32 here: training in FP32"
    )
    return None


def probe_image(channels: int) -> Tensor:
    """(1, C, 256, 256) a smooth pattern in [0, 1]."""
    ramp = torch.linspace(0, 12, PROBE_SIDE)
    pattern = (ramp.sin()[:, None] * ramp.cos()[None] + 1) / 2
    return pattern.expand(1, channels, -1, -1).contiguous()


def _outputs(model: nn.Module, images: Tensor, dtype: torch.dtype | None) -> Any:
    """What the network gives, under autocast if a dtype is named."""
    precision: Any = torch.autocast(images.device.type, dtype=dtype) if dtype else nullcontext()
    with precision:
        return model(images)
