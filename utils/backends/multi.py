"""`DetectMultiBackend`: any model file as one `nn.Module`, with the name and attributes that other programs know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.backends.base import Backend, Visitor
from utils.backends.pytorch import PyTorchBackend
from utils.backends.registry import PYTORCH, TRITON, find_format, load_backend
from utils.core.errors import InputError
from utils.datasets.index.data_yaml import read_spec

FLAGS = {  # attribute: the format's name for `export.py --include`
    "jit": "torchscript",
    "onnx": "onnx",
    "xml": "openvino",
    "engine": "engine",
    "coreml": "coreml",
    "saved_model": "saved_model",
    "pb": "pb",
    "tflite": "tflite",
    "edgetpu": "edgetpu",
    "tfjs": "tfjs",
    "paddle": "paddle",
}


class DetectMultiBackend(nn.Module):
    """A model file, or an ensemble of several .pt files, that is called like a network.

    Args:
        weights: file(s); the ending tells the format.
        device: where to run; exported files stay there, a .pt file's network follows `.to()`.
        dnn: run an .onnx file by OpenCV.
        data: data YAML with class names for formats that store none.
        fp16: half precision where device and format allow it.
        fuse: fold batch norms into convolutions (.pt).

    Attributes:
        backend: what runs the file.
        model: the network of a .pt file.
        pt, jit, onnx, xml, engine, coreml, saved_model, pb, tflite, edgetpu, tfjs, paddle, triton: the one format that
            it is; the others are False.
        stride, names: of the model. batch_size: images a graph of fixed size takes at once, else 1.

    Raises:
        utils.core.errors.InputError: as `load_backend`.
    """

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path] = "yolov5s.pt",
        device: torch.device | str = "cpu",
        dnn: bool = False,
        data: str | Path | None = None,
        fp16: bool = False,
        fuse: bool = True,
    ) -> None:
        super().__init__()
        first = weights if isinstance(weights, str | Path) else next(iter(weights), "")
        kind = find_format(str(first))
        self.pt, self.triton, self.dnn = kind is PYTORCH, kind is TRITON, dnn
        for flag, include in FLAGS.items():
            setattr(self, flag, kind.include == include or (flag == "coreml" and kind.title == "CoreML"))
        names = read_spec(data).names if data and not self.pt else None
        self.backend: Backend = load_backend(
            weights, device=torch.device(device), fp16=fp16, names=names, dnn=dnn, fuse=fuse
        )
        if isinstance(self.backend, PyTorchBackend):
            self.model = self.backend.model
        self.names, self.stride = self.backend.names, self.backend.stride
        self.batch_size = int(getattr(self.backend, "fixed_batch", None) or 1)

    @property
    def task(self) -> str:
        """What the model does: "detect", "segment" or "classify"."""
        return self.backend.task

    @property
    def device(self) -> torch.device:
        """Where the input is expected."""
        return up_to_date(self.backend).device

    @property
    def fp16(self) -> bool:
        """Whether the input is to be half precision."""
        return up_to_date(self.backend).dtype == torch.float16

    def forward(self, im: Tensor, augment: bool = False, visualize: Any = False) -> Any:
        """Output of the network for (B, C, H, W) images in [0, 1]: what `Backend.forward` gives.

        Args:
            augment: test-time augmentation.
            visualize: a folder that the maps of every layer are saved to, or a function called with every layer and
                its output.

        Raises:
            InputError: `im` is no tensor.
        """
        if not isinstance(im, Tensor):
            raise InputError(
                f"{type(im).__name__}: a model of task {self.task} that is not wrapped takes a (B, C, H, W) tensor of "
                f"floats{', normalized as in ImageNet' if self.task == 'classify' else ' in 0-1'}; for files: detect.py"
            )
        backend = up_to_date(self.backend)
        return backend.forward(
            im.to(backend.device, backend.dtype), augment=augment, visualize=_visitor(visualize) if visualize else None
        )

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640)) -> None:
        """Run once where the first run is slower than the others.

        Args:
            imgsz: (B, C, H, W).
        """
        up_to_date(self.backend).warmup((imgsz[-2], imgsz[-1]))


def with_suffix(file: str | Path) -> str:
    """The name of a model file; `.pt` is added where it has no suffix and no file has that name."""
    bare = not Path(file).suffix and not Path(file).is_file() and find_format(str(file)) is PYTORCH
    return f"{file}.pt" if bare else str(file)


def up_to_date(backend: Backend) -> Backend:
    """The backend; of one that runs a network, device and type are where the network has been moved to meanwhile."""
    if isinstance(backend, PyTorchBackend):
        weight = next(backend.model.parameters(), None)
        if weight is not None:
            backend.device, backend.dtype = weight.device, weight.dtype
    return backend


def _visitor(visualize: Any) -> Visitor:
    """What looks at every layer."""
    if callable(visualize):
        return visualize
    from utils.plots import save_feature_maps  # matplotlib takes half a second to import and this is its only use

    def save(layer: nn.Module, output: Any) -> None:
        save_feature_maps(output, str(layer.type), int(layer.i), Path(visualize))  # type: ignore[arg-type]

    return save
