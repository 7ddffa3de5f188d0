"""`DetectMultiBackend`: a model file of any format as an `nn.Module`, with the interface that other programs use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.backends.base import Backend
from utils.backends.pytorch import PyTorchBackend
from utils.backends.registry import FORMATS, PYTORCH, TRITON, find_format, load_backend
from utils.core.errors import InputError
from utils.datasets.index.data_yaml import read_spec
from utils.predict.predictor import build_feature_visitor
from utils.tasks.registry import find_task

FLAGS = {"torchscript": "jit", "openvino": "xml"}  # `Format.include` -> attribute, where they differ


class DetectMultiBackend(nn.Module):
    """A model file, or an ensemble of .pt files, that is called like a network.

    Args:
        weights: file(s); the suffix determines the format.
        device: device to run on; only the network of a .pt file follows `.to()`.
        dnn: run an .onnx file with OpenCV.
        data: data YAML with class names for files without names.
        fp16: half precision if device and format support it.
        fuse: fuse batch norms with convolutions (.pt).
        trust: load a file even if it can do more than compute (see docs/exports.md).
        threads: number of CPU threads; None chooses it by a short trial.

    Attributes:
        backend: the runtime.
        model: the network of a .pt file, the program of a TorchScript file.
        pt, jit, onnx, xml, engine, coreml, saved_model, pb, tflite, edgetpu, tfjs, paddle, triton: True for the
            model's format.
        stride, names: of the model. batch_size: fixed batch size of an exported file, else 1.

    Raises:
        utils.core.errors.InputError: see `load_backend`.
    """

    __module__ = "models.common"  # its public address, by which programs recognize it

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path] = "yolov5s.pt",
        device: torch.device | str = "cpu",
        dnn: bool = False,
        data: str | Path | None = None,
        fp16: bool = False,
        fuse: bool = True,
        *,
        trust: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        first = weights if isinstance(weights, str | Path) else next(iter(weights), "")
        kind = find_format(str(first))
        self.pt, self.triton, self.dnn = kind is PYTORCH, kind is TRITON, dnn
        for fmt in FORMATS:
            if fmt.include:
                setattr(self, FLAGS.get(fmt.include, fmt.include), fmt.title == kind.title)
        names = read_spec(data).names if data and not self.pt else None
        self.backend: Backend = load_backend(
            weights,
            device=torch.device(device),
            fp16=fp16,
            names=names,
            dnn=dnn,
            fuse=fuse,
            trust=trust,
            threads=threads,
        )
        for attribute in ("model", "module"):  # of .pt and TorchScript files
            if isinstance(network := getattr(self.backend, attribute, None), nn.Module):
                self.model = network
        self.names, self.stride = self.backend.names, self.backend.stride
        self.batch_size = int(getattr(self.backend, "fixed_batch", None) or 1)

    @property
    def task(self) -> str:
        return self.backend.task

    @property
    def device(self) -> torch.device:
        return refresh_backend(self.backend).device

    @property
    def fp16(self) -> bool:
        return refresh_backend(self.backend).dtype == torch.float16

    def forward(self, im: Tensor, augment: bool = False, visualize: Any = False) -> Any:
        """Run the model on (B, C, H, W) images in [0, 1].

        Returns:
            For boxes, of a .pt file a list: rows (B, N, 5 + num_classes), raw maps (None with `augment`); of other
            files the rows. For masks a list: rows, prototypes, of a .pt file raw maps. For classes (B, num_classes)
            logits. `NMSOutput` if the file includes NMS. Semantic and joint models: as `Backend.forward`.

        Args:
            augment: test-time augmentation.
            visualize: folder for the feature maps of all layers, or a function called with every layer and its output.

        Raises:
            InputError: `im` is not a tensor.
        """
        if not isinstance(im, Tensor):
            values = "floats in 0-1" if find_task(self.task).pixels is None else "floats, normalized as in ImageNet"
            raise InputError(
                f"{type(im).__name__}: a model without AutoShape expects a (B, C, H, W) tensor of {values}; "
                "for files: detect.py"
            )
        backend = refresh_backend(self.backend)
        if visualize and not callable(visualize):
            visualize = build_feature_visitor(Path(visualize))
        output = backend.forward(im.to(backend.device, backend.dtype), augment=augment, visualize=visualize or None)
        return list(output) if type(output) is tuple else output  # a JointOutput stays one

    def from_numpy(self, x: Any) -> Any:
        """An array as a tensor on the model's device; anything else unchanged."""
        if not isinstance(x, np.ndarray):
            return x
        return torch.as_tensor(x, device=self.device)

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640)) -> None:
        """Run once if the first run is slower than later ones.

        Args:
            imgsz: (B, C, H, W).
        """
        refresh_backend(self.backend).warmup((imgsz[-2], imgsz[-1]))


def add_pt_suffix(file: str | Path) -> str:
    """Add `.pt` to the name of a model without suffix, unless a file has that name."""
    bare = not Path(file).suffix and not Path(file).is_file() and find_format(str(file)) is PYTORCH
    return f"{file}.pt" if bare else str(file)


def refresh_backend(backend: Backend) -> Backend:
    """Return the backend, its device and dtype updated if its network has been moved."""
    if isinstance(backend, PyTorchBackend):
        weight = next(backend.model.parameters(), None)
        if weight is not None:
            backend.device, backend.dtype = weight.device, weight.dtype
    return backend
