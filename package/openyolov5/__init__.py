"""YOLOv5 under Apache-2.0, as a package.

    import openyolov5

    model = openyolov5.load("best.pt")
    results = model(["street.jpg"])
    openyolov5.train.run(data="shapes.yaml", weights="", cfg="yolov5n.yaml", epochs=3)

`models` and `utils` of the checkout are `openyolov5.models` and `openyolov5.utils`. Importing this package does not
import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from openyolov5 import benchmarks, classify, detect, export, hubconf, models, segment, train, utils, val
    from openyolov5.utils.predict.autoshape import AutoShape
    from openyolov5.utils.predict.multi_backend import DetectMultiBackend

    Device = str | int | torch.device | None
    Paths = str | Path | Sequence[str | Path]

__all__ = [
    "benchmarks",
    "classify",
    "detect",
    "export",
    "hubconf",
    "load",
    "models",
    "segment",
    "train",
    "utils",
    "val",
]


@overload
def load(
    path: Paths, device: Device = None, autoshape: Literal[True] = True, verbose: bool = False, *, trust: bool = False
) -> AutoShape: ...


@overload
def load(
    path: Paths, device: Device = None, *, autoshape: Literal[False], verbose: bool = False, trust: bool = False
) -> DetectMultiBackend: ...


def load(
    path: Paths, device: Device = None, autoshape: bool = True, verbose: bool = False, *, trust: bool = False
) -> AutoShape | DetectMultiBackend:
    """A model from a checkpoint or an exported file, ready for images.

    Args:
        path: file, official name such as "yolov5s.pt", or a list of .pt files (an ensemble).
        device: "cpu", 0, "cuda:0"; None means CUDA if available.
        autoshape: return an `AutoShape`, which takes images of any kind and returns `Detections`; otherwise a
            `DetectMultiBackend`, which takes and returns tensors.
        verbose: log information, not only warnings.
        trust: load an exported file even if it can do more than compute.

    Raises:
        InputError: the file is missing, damaged or of no known format.
    """
    from openyolov5 import hubconf

    model: AutoShape | DetectMultiBackend = hubconf.custom(
        path, autoshape=autoshape, _verbose=verbose, device=device, trust=trust
    )
    return model


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from openyolov5.utils.core.version import VERSION

        return VERSION
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
