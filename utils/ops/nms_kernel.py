"""The NMS kernel of torchvision, without the Python package: its import takes a second, the library a millisecond."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

LIBRARY_SUFFIXES = (".so", ".pyd", ".dylib")

Kernel = Callable[[Tensor, Tensor, float], Tensor]


@cache
def load_nms_kernel() -> Kernel:
    """`torchvision.ops.nms`: boxes (n, 4) xyxy, scores (n,), IoU threshold -> kept indices by falling score."""
    if "torchvision" not in sys.modules:
        for file in _find_libraries():
            try:
                torch.ops.load_library(file)
                kernel: Kernel = torch.ops.torchvision.nms
                kernel(torch.zeros(1, 4), torch.zeros(1), 0.5)
            except (OSError, RuntimeError, AttributeError, NotImplementedError):  # the package knows what it needs
                continue
            return kernel
    from torchvision.ops import nms

    return nms


def _find_libraries() -> list[Path]:
    """The compiled operators in the folder of torchvision; which file has them depends on the version."""
    spec = find_spec("torchvision")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return [file for folder in folders for file in sorted(Path(folder).glob("_C*")) if file.suffix in LIBRARY_SUFFIXES]
