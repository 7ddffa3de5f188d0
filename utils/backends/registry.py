"""The table of model formats and the choice among them by suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.backends.base import Backend
from utils.backends.pytorch import load_pytorch
from utils.errors import InputError

Loader = Callable[..., Backend]


@dataclass(frozen=True)
class Format:
    """A kind of model file.

    Attributes:
        title: name for messages.
        ending: how the file or folder name ends, lower case.
        load: opens such files; None where that is not offered yet.
    """

    title: str
    ending: str
    load: Loader | None = None


FORMATS = (  # the longer of two endings comes first
    Format("PyTorch", ".pt", load_pytorch),
    Format("TorchScript", ".torchscript"),
    Format("ONNX", ".onnx"),
    Format("OpenVINO", "_openvino_model"),
    Format("TensorRT", ".engine"),
    Format("CoreML", ".mlmodel"),
    Format("CoreML", ".mlpackage"),
    Format("TensorFlow SavedModel", "_saved_model"),
    Format("TensorFlow GraphDef", ".pb"),
    Format("Edge TPU", "_edgetpu.tflite"),
    Format("TensorFlow Lite", ".tflite"),
    Format("TensorFlow.js", "_web_model"),
    Format("PaddlePaddle", "_paddle_model"),
)


def load_backend(
    weights: str | Path | Sequence[str | Path],
    *,
    device: torch.device,
    fp16: bool = False,
    names: Mapping[int, str] | None = None,
) -> Backend:
    """The runtime for a model file, loaded; several PyTorch files form an ensemble.

    Args:
        fp16: compute in half precision where device and format allow it.
        names: class names for formats that store none.

    Raises:
        InputError: the format is unknown or not offered yet, formats are mixed, or the file cannot be used.
    """
    files = [str(weights)] if isinstance(weights, str | Path) else [str(w) for w in weights]
    if not files:
        raise InputError("--weights: name at least one model file")
    kinds = [find_format(file) for file in files]
    if len(set(kinds)) > 1 or (len(files) > 1 and kinds[0].load is not load_pytorch):
        raise InputError(f"--weights {' '.join(files)}: an ensemble is made of .pt files only")
    if kinds[0].load is None:
        raise InputError(
            f"{files[0]}: {kinds[0].title} files are not supported yet (they come with export); give a .pt checkpoint"
        )
    return kinds[0].load(files, device=device, fp16=fp16, names=names)


def find_format(file: str) -> Format:
    """The row of FORMATS for a file name; a name without suffix is taken for a checkpoint's.

    Raises:
        InputError: no row has this ending.
    """
    if "://" in file:
        raise InputError(f"{file}: inference servers are not supported yet; give a .pt checkpoint")
    name = Path(file).name.lower()
    for kind in FORMATS:
        if name.endswith(kind.ending):
            return kind
    if not Path(name).suffix:
        return FORMATS[0]
    known = ", ".join(kind.ending for kind in FORMATS if kind.load)
    raise InputError(f"{file}: no model format has this ending; known here: {known}")
