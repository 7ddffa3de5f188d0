"""Model formats, selected by file suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils.backends.base import Backend, ExportedBackend
from utils.backends.threads import set_up_threads
from utils.core.device import keep_freed_memory
from utils.core.errors import InputError
from utils.core.lazy import import_project_module

Loader = Callable[..., Backend]


@dataclass(frozen=True)
class Format:
    """A model format.

    Attributes:
        title: name for messages and tables.
        include: name for `export.py --include`; empty if it cannot be exported.
        ending: suffix of the file or folder name, lower case.
        runtime: "module:function" in utils.backends that loads it; empty if it cannot be run.
        cpu, gpu: whether it runs on these devices.
        is_program: a file may do more than compute; its loader takes `trust`.
    """

    title: str
    include: str
    ending: str
    runtime: str
    cpu: bool = True
    gpu: bool = False
    is_program: bool = False

    def load(self, files: Sequence[str], **options: object) -> Backend:
        """Load the file(s), importing the runtime's package."""
        module, _, function = self.runtime.partition(":")
        return getattr(import_project_module(f"utils.backends.{module}"), function)(files, **options)


FORMATS = (  # longer endings precede shorter ones
    Format("PyTorch", "", ".pt", "pytorch:load_pytorch", gpu=True),
    Format("TorchScript", "torchscript", ".torchscript", "torchscript:load_torchscript", gpu=True, is_program=True),
    Format("ONNX", "onnx", ".onnx", "onnxruntime:load_onnx", gpu=True),
    Format("OpenVINO", "openvino", "_openvino_model", "openvino:load_openvino"),
    Format("TensorRT", "engine", ".engine", "tensorrt:load_tensorrt", cpu=False, gpu=True, is_program=True),
    Format("CoreML", "coreml", ".mlpackage", "coreml:load_coreml"),
    Format("CoreML", "", ".mlmodel", "coreml:load_coreml"),
    Format(
        "TensorFlow SavedModel", "saved_model", "_saved_model", "tensorflow:load_saved_model", gpu=True, is_program=True
    ),
    Format("TensorFlow GraphDef", "pb", ".pb", "tensorflow:load_graph_def", gpu=True, is_program=True),
    Format("Edge TPU", "edgetpu", "_edgetpu.tflite", "tflite:load_edgetpu", cpu=False),
    Format("TensorFlow Lite", "tflite", ".tflite", "tflite:load_tflite"),
    Format("TensorFlow.js", "tfjs", "_web_model", "", cpu=False),
    Format("PaddlePaddle", "paddle", "_paddle_model", "paddle:load_paddle", gpu=True, is_program=True),
)
PYTORCH = FORMATS[0]
TRITON = Format("Triton server", "", "://", "triton:load_triton", gpu=True)
OPENCV_DNN = Format("ONNX (OpenCV DNN)", "", ".onnx", "opencv_dnn:load_opencv_dnn")


def load_backend(
    weights: str | Path | Sequence[str | Path],
    *,
    device: torch.device,
    fp16: bool = False,
    names: Mapping[int, str] | None = None,
    dnn: bool = False,
    fuse: bool = True,
    trust: bool = False,
    threads: int | None = None,
) -> Backend:
    """Load a model file; several PyTorch files form an ensemble. On a CPU this calls `keep_freed_memory`.

    Args:
        fp16: half precision if device and format support it.
        names: class names for files without names.
        dnn: run ONNX files with OpenCV.
        fuse: fuse batch norms with convolutions (PyTorch).
        trust: load a file even if it can do more than compute.
        threads: number of CPU threads; None chooses it (see `set_up_threads`).

    Raises:
        UntrustedError: the file can do more than compute, or cannot be checked for it.
        InputError: unknown or mixed formats, a missing package, or a file that cannot be run.
    """
    files = [str(weights)] if isinstance(weights, str | Path) else [str(w) for w in weights]
    if not files:
        raise InputError("--weights: expected at least one model file")
    kinds = [find_format(file) for file in files]
    if len(files) > 1 and any(kind is not PYTORCH for kind in kinds):
        raise InputError(f"--weights {' '.join(files)}: an ensemble can contain .pt files only")
    kind = kinds[0]
    if dnn:
        if kind.ending != OPENCV_DNN.ending:
            raise InputError(f"--dnn: OpenCV runs .onnx files, not {files[0]}; leave the flag out")
        kind = OPENCV_DNN
    if not kind.runtime:
        raise InputError(f"{files[0]}: {kind.title} models run in browsers only; use another format")
    if device.type == "cpu":
        keep_freed_memory()
    tuner = set_up_threads(threads, device)
    options: dict[str, object] = {"device": device, "fp16": fp16, "names": names}
    if kind is PYTORCH:
        options["fuse"] = fuse
    if kind.is_program:
        options["trust"] = trust
    backend: Any = kind.load(files, **options)
    if tuner is not None and hasattr(backend, "threads"):
        backend.threads = tuner
    if names and isinstance(backend, ExportedBackend):
        backend.check_names()
    loaded: Backend = backend
    return loaded


def find_format(file: str) -> Format:
    """The format of a file, by its name; a name without suffix is treated as a checkpoint.

    Raises:
        InputError: unknown suffix.
    """
    if "://" in file:
        scheme = file.partition("://")[0].lower()
        if scheme not in ("http", "grpc"):
            raise InputError(f"{file}: the address of a Triton server starts with http:// or grpc://, not {scheme}://")
        return TRITON
    name = Path(file).name.lower()
    for kind in FORMATS:
        if name.endswith(kind.ending):
            return kind
    if not Path(name).suffix:
        return PYTORCH
    known = ", ".join(kind.ending for kind in FORMATS if kind.runtime)
    raise InputError(f"{file}: unknown model format; supported: {known}")
