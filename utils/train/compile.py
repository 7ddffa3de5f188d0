"""torch.compile for the training network (`--compile`), if it works on this machine."""

from __future__ import annotations

import torch
from torch import nn

from utils.core.logging import LOGGER


def compile_network(model: nn.Module, device: torch.device) -> bool:
    """Compile the network in place, which keeps modules and state-dict keys; False with a warning if that fails.

    torch.compile needs a C++ compiler on CPU and Triton on CUDA, and fails only at its first use.
    """
    if reason := _try_compile(device):
        LOGGER.warning(f"WARNING --compile: torch.compile fails here ({reason}): training without it")
        return False
    model.compile()
    LOGGER.info("--compile: the first steps, and those of a new image size, take about a minute longer")
    return True


def _try_compile(device: torch.device) -> str:
    """Error of torch.compile for a tiny function on this device; '' if it works."""
    try:
        torch.compile(_tiny)(torch.ones(4, device=device))
    except (RuntimeError, ImportError, OSError) as error:  # its errors are RuntimeErrors
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


def _tiny(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
