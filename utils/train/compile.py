"""`--compile`: the training network through torch.compile, where that works."""

from __future__ import annotations

import torch
from torch import nn

from utils.core.logging import LOGGER


def compile_network(model: nn.Module, device: torch.device) -> bool:
    """Compile the network in place, which keeps modules and state-dict keys; False, with a warning, where it cannot be.

    torch.compile needs a C++ compiler on a processor and Triton on CUDA, and says so only when it is used.
    """
    if reason := _why_not(device):
        LOGGER.warning(f"WARNING --compile: cannot be used here ({reason}): training without")
        return False
    model.compile()
    LOGGER.info("--compile: the first steps, and those of a new image size, take a minute or so longer")
    return True


def _why_not(device: torch.device) -> str:
    """What torch.compile says of a tiny function on this device; '' where it works."""
    try:
        torch.compile(_tiny)(torch.ones(4, device=device))
    except (RuntimeError, ImportError, OSError) as error:  # its errors are RuntimeErrors
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


def _tiny(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
