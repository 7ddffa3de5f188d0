"""Public address of device, timing and model helpers, with their known signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models import pruning
from models.common import fuse_conv_bn
from utils.core import device as devices
from utils.general import time_now as time_sync

__all__ = [
    "de_parallel", "fuse_conv_and_bn", "model_info", "prune", "select_device", "smart_inference_mode", "sparsity",
    "time_sync",
]  # fmt: skip


def select_device(device: str | int | torch.device = "", batch_size: int = 0, newline: bool = True) -> torch.device:
    """The device of a `--device` value; the other arguments are ignored."""
    return devices.select_device(str(device))


def smart_inference_mode() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that runs a function in inference mode."""
    return torch.inference_mode()


def de_parallel(model: nn.Module) -> nn.Module:
    """The model inside a DataParallel wrapper, or the model itself."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model


def model_info(model: Any, verbose: bool = False, imgsz: int = 640) -> None:
    """Log the numbers of layers, parameters and GFLOPs."""
    model.info(verbose, imgsz)


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Fuse batch norm into a convolution."""
    return fuse_conv_bn(conv, bn)


def prune(model: nn.Module, amount: float = 0.3) -> None:
    """Set the fraction `amount` of smallest weights of each convolution to zero."""
    pruning.prune_convolutions(model, amount)


sparsity = pruning.compute_sparsity
