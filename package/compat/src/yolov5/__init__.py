"""The interface of the package `yolov5`, served by `openyolov5`.

`yolov5.models`, `yolov5.utils`, `yolov5.train`, ... are the modules of `openyolov5` under another name.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import openyolov5

from yolov5.alias import AliasFinder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from openyolov5.utils.predict.autoshape import AutoShape
    from openyolov5.utils.predict.detections import Detections
    from openyolov5.utils.predict.multi_backend import DetectMultiBackend

    Device = str | int | torch.device | None

__version__ = "7.0.14"  # of the interface
__all__ = ["YOLOv5", "load"]

sys.meta_path.insert(0, AliasFinder(__name__, "openyolov5", own=("alias", "cli")))  # before the search in folders


def load(
    model_path: str | Path, device: Device = None, autoshape: bool = True, verbose: bool = False
) -> AutoShape | DetectMultiBackend:
    """A model from a checkpoint or an exported file, as `openyolov5.load`.

    Its class says that it is one of `yolov5.models.common`, by which other programs recognize it.
    """
    model: AutoShape | DetectMultiBackend
    model = openyolov5.load(model_path, device, autoshape=autoshape, verbose=verbose)  # type: ignore[call-overload]
    type(model).__module__ = f"{__name__}.models.common"
    return model


class YOLOv5:
    """A model that is loaded once and called for images.

    Args:
        model_path: checkpoint or exported file.
        device: "cpu", 0, "cuda:0"; None means CUDA if available.
        load_on_init: load the model now, or else by `load_model`.
    """

    def __init__(self, model_path: str | Path, device: Device = None, load_on_init: bool = True) -> None:
        self.model_path, self.device = model_path, device
        self.model: Any = None
        if load_on_init:
            self.load_model()

    def load_model(self) -> None:
        """Load the model into `model`; InputError if the file is missing or damaged."""
        self.model = load(self.model_path, self.device)

    def predict(self, image_list: Any | Sequence[Any], size: int = 640, augment: bool = False) -> Detections:
        """Detections in one or several images: files, URLs, PIL images, RGB arrays.

        Args:
            size: network input size in pixels.
            augment: test-time augmentation.
        """
        if self.model is None:
            self.load_model()
        detections: Detections = self.model(image_list, size=size, augment=augment)
        return detections


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise  # a package that the module needs
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
