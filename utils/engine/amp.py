"""Whether mixed precision can be trusted on this device."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from utils.logging import LOGGER

TOLERANCE = 0.1  # of the picture's side; broken half precision is off by far more, or not finite
PROBE_SIDE = 256
COMPARED = 100  # boxes of highest objectness


@torch.no_grad()
def checked_amp(model: nn.Module, dtype: torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """`dtype` if boxes under autocast agree with those of FP32, else None with a warning.

    Some GPUs (the GTX 16 series among them) compute nonsense in FP16; this costs two forward passes to find out.
    """
    if dtype is None:
        return None
    training = model.training
    images = probe_picture(int(getattr(model, "yaml", {}).get("ch", 3))).to(device)
    exact, mixed = (_boxes(model.eval(), images, d) for d in (None, dtype))
    model.train(training)
    if boxes_agree(exact, mixed):
        return dtype
    LOGGER.warning(f"boxes under {str(dtype).removeprefix('torch.')} autocast differ from FP32 here: training in FP32")
    return None


def probe_picture(channels: int) -> Tensor:
    """(1, C, 256, 256) a smooth pattern in [0, 1]."""
    ramp = torch.linspace(0, 12, PROBE_SIDE)
    pattern = (ramp.sin()[:, None] * ramp.cos()[None] + 1) / 2
    return pattern.expand(1, channels, -1, -1).contiguous()


def boxes_agree(exact: Tensor, mixed: Tensor) -> bool:
    """Whether the boxes that score highest in FP32 are the same, to a tenth of the picture's side.

    Args:
        exact, mixed: (N, 5+) x, y, w, h in pixels, objectness.
    """
    best = exact[:, 4].topk(min(COMPARED, len(exact))).indices
    difference = (exact[best, :4] - mixed[best, :4].float()).abs().max()
    return bool(difference.isfinite() and difference < TOLERANCE * PROBE_SIDE)


def _boxes(model: nn.Module, images: Tensor, dtype: torch.dtype | None) -> Tensor:
    """(N, 5+) decoded rows of the one picture."""
    precision: Any = torch.autocast(images.device.type, dtype=dtype) if dtype else nullcontext()
    with precision:
        rows: Tensor = model(images)[0][0]
    return rows.float()
