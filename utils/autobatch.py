"""Public address of the batch size that fits into GPU memory, with its known signatures."""

from __future__ import annotations

import copy
import gc
from typing import Any

import torch
from torch import Tensor, nn

from utils.core.logging import LOGGER
from utils.general import colorstr
from utils.torch_utils import de_parallel
from utils.train.autobatch import measure_peak, search_batch_size

PREFIX = colorstr("AutoBatch: ")


def check_train_batch_size(model: nn.Module, imgsz: int = 640, amp: bool = True) -> int:
    """The batch size of `autobatch` for training in mixed precision, or without `amp` in single precision."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, enabled=amp and device.type == "cuda"):
        return autobatch(model, imgsz)


def autobatch(model: nn.Module, imgsz: int = 640, fraction: float = 0.8, batch_size: int = 16) -> int:
    """The largest batch whose forward and backward passes stay below a share of the free GPU memory.

    A copy of the network in training mode is measured.

    Args:
        model: network on its device.
        imgsz: side of the images, pixels.
        fraction: share of the free memory.
        batch_size: result on other devices than CUDA, and where not even one image fits.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        LOGGER.info(f"{PREFIX}memory is measured on CUDA only; batches of {batch_size} on this {device.type.upper()}")
        return batch_size
    network = copy.deepcopy(de_parallel(model)).train()
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    found = search_batch_size(lambda batch: _measure(network, batch, imgsz, device), fraction * free)
    if not found:
        LOGGER.warning(f"{PREFIX}one image of {imgsz} px needs more than {fraction:.0%} of the free memory")
        return batch_size
    LOGGER.info(f"{PREFIX}batches of {found} take at most {fraction:.0%} of {free / 2**30:.1f} GiB of free memory")
    return found


def _measure(model: nn.Module, batch_size: int, imgsz: int, device: torch.device) -> int | None:
    """Bytes that PyTorch reserves at the peak of a forward and backward pass; None if they do not fit."""

    def run() -> None:
        images = torch.zeros(batch_size, _count_channels(model), imgsz, imgsz, device=device)
        if outputs := _list_tensors(model(images)):  # none if all weights are frozen
            torch.stack([output.float().sum() for output in outputs]).sum().backward()

    try:
        return measure_peak(run, device)
    finally:
        model.zero_grad(set_to_none=True)


def _count_channels(model: nn.Module) -> int:
    """Input channels, from the first convolution."""
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)


def _list_tensors(output: Any) -> list[Tensor]:
    """All tensors of a nested output with a gradient."""
    if isinstance(output, Tensor):
        return [output] if output.requires_grad else []
    return [tensor for part in output for tensor in _list_tensors(part)]
