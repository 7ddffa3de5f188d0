"""TensorFlow Lite files, run by LiteRT on the CPU or an Edge TPU."""

from __future__ import annotations

import ast
import ctypes
import io
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.backends.base import MAX_FILE_BYTES, ExportedBackend
from utils.backends.info import ModelInfo
from utils.core.errors import InputError
from utils.core.files import read_file
from utils.core.logging import LOGGER
from utils.core.packages import MissingPackageError, find_exported_file, import_runtime

FILE_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every file
MAX_INFO_FILES, MAX_INFO_BYTES = 16, 1 << 20
INTERPRETERS = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
EDGETPU_LIBRARIES = {"linux": "libedgetpu.so.1", "darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}
EDGETPU_SITE = "https://coral.ai/software/"


class TfliteBackend(ExportedBackend):
    """An interpreter of LiteRT; threads take turns."""

    title = "TensorFlow Lite"

    def __init__(self, file: str, interpreter: Any, info: ModelInfo, *, names: Mapping[int, str] | None = None) -> None:
        source, *others = interpreter.get_input_details()
        shape = [int(side) for side in source["shape"]]
        if others or len(shape) != 4:
            found = f"{len(others) + 1} inputs, the first of shape {shape}"
            raise InputError(f"{file}: expected a batch of images as the only input, found {found}; export it again")
        batch, height, width, channels = shape
        super().__init__(
            file,
            replace(info, normalized=True),
            device=torch.device("cpu"),
            names=names,
            input_shape=(batch, channels, height, width),
        )
        self.interpreter, self._input, self._lock = interpreter, source, Lock()
        self._outputs = sorted(interpreter.get_output_details(), key=lambda detail: len(detail["shape"]))

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        inputs = quantize(images.permute(0, 2, 3, 1).contiguous().numpy(), self._input)
        with self._lock:
            self.interpreter.set_tensor(self._input["index"], inputs)
            self.interpreter.invoke()
            outputs = [self.interpreter.get_tensor(detail["index"]) for detail in self._outputs]
        pairs = zip(outputs, self._outputs, strict=True)
        return [torch.from_numpy(dequantize(output, detail)) for output, detail in pairs]


def quantize(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """Convert floats to the type of a tensor: value / scale + zero point, clipped to the type's range.

    Unsigned values are truncated as in YOLOv5, whose INT8 files have such an input; signed ones are rounded.
    """
    dtype, (scale, zero_point) = np.dtype(detail["dtype"]), detail["quantization"]
    if dtype.kind == "f" or not scale:
        return values.astype(dtype, copy=False)
    limits, scaled = np.iinfo(dtype), values / np.float32(scale)
    whole = np.trunc(scaled + np.float32(zero_point)) if dtype.kind == "u" else np.rint(scaled) + zero_point
    return np.clip(whole, limits.min, limits.max).astype(dtype)


def dequantize(stored: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """Convert the values of a tensor to floats: (stored - zero point) * scale."""
    scale, zero_point = detail["quantization"]
    values = stored.astype(np.float32)
    return (values - np.float32(zero_point)) * np.float32(scale) if scale and stored.dtype.kind != "f" else values


def load_tflite(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TfliteBackend:
    """Load a file on the CPU.

    Raises:
        MissingPackageError: no interpreter is installed.
        InputError: no such file, or not a TensorFlow Lite file.
    """
    if device.type != "cpu":
        LOGGER.warning(f"WARNING: TensorFlow Lite files run on the CPU, not on {device}")
    path = find_exported_file(files[0], "tflite")
    return _load(files[0], read_tflite(path), import_litert(), names=names)


def load_edgetpu(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TfliteBackend:
    """Load a file on the first Edge TPU.

    Raises:
        MissingPackageError: no interpreter is installed.
        InputError: no such file, not a TensorFlow Lite file, or Coral's library or device is missing.
    """
    path = find_exported_file(files[0], "edgetpu")
    content = read_tflite(path)
    litert = import_litert()
    library = EDGETPU_LIBRARIES.get(sys.platform, EDGETPU_LIBRARIES["linux"])
    try:
        ctypes.CDLL(library)  # LiteRT prints a traceback if it cannot load the library
        delegate = litert.load_delegate(library)
    except (OSError, ValueError) as error:
        missing = f"{library} cannot be loaded ({error}); install it: {EDGETPU_SITE}"
        cause = missing if isinstance(error, OSError) else "no Edge TPU responds; is it plugged in?"
        raise InputError(f"{files[0]}: runs on a Coral Edge TPU only, but {cause}") from error
    return _load(files[0], content, litert, names=names, delegates=[delegate])


def import_litert() -> Any:
    """Import LiteRT, or its predecessor.

    Raises:
        MissingPackageError: neither is installed.
    """
    for package in INTERPRETERS:
        try:
            return import_runtime(package, needed_for="TensorFlow Lite files", install="ai-edge-litert")
        except MissingPackageError:
            continue
    raise MissingPackageError("TensorFlow Lite files need the package ai_edge_litert: pip install ai-edge-litert")


def read_tflite(path: Path) -> bytes:
    """Content of a TensorFlow Lite file; InputError if it lacks the file identifier."""
    content = read_file(path, max_bytes=MAX_FILE_BYTES)
    if content[4:8] != FILE_IDENTIFIER:
        raise InputError(f"{path}: damaged or not a TensorFlow Lite file; copy or export it again")
    return content


def read_info(content: bytes, file: str) -> ModelInfo:
    """Read the metadata from the zip archive appended to a model; defaults if there is none.

    The first text that is a mapping counts; it is parsed as JSON or a Python literal, never evaluated.

    Raises:
        InputError: there are texts, but none is a mapping of plain data.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [m for m in archive.infolist()[:MAX_INFO_FILES] if m.file_size <= MAX_INFO_BYTES]
            texts = [archive.read(member).decode("utf-8", "replace") for member in members]
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        return ModelInfo()
    for text in texts:
        for parse in (json.loads, ast.literal_eval):
            try:
                values = parse(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                continue
            if isinstance(values, Mapping):
                return ModelInfo.from_values(values, place=file)
    if texts and "{" in texts[0]:
        shown = " ".join(texts[0].split())[:60]
        raise InputError(f"{file}: metadata {shown!r} is not plain data (it is not evaluated); export it again")
    return ModelInfo()


def _load(
    file: str, content: bytes, litert: Any, *, names: Mapping[int, str] | None, delegates: Sequence[Any] = ()
) -> TfliteBackend:
    info = read_info(content, file)
    try:
        interpreter = litert.Interpreter(
            model_content=content,
            num_threads=torch.get_num_threads(),
            experimental_delegates=list(delegates) or None,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        if "edgetpu-custom-op" in reason:
            reason = "compiled for an Edge TPU; keep the suffix _edgetpu.tflite"
        raise InputError(f"{file}: LiteRT cannot run it ({reason}); copy or export it again") from error
    return TfliteBackend(file, interpreter, info, names=names)
