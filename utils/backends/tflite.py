"""TensorFlow Lite files, run by LiteRT on the processor or on an Edge TPU."""

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

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.packages import MissingPackageError, existing_file, import_runtime
from utils.core.errors import InputError
from utils.core.logging import LOGGER

MAGIC = b"TFL3"  # bytes 4 to 8 of every file
MAX_INFO_BYTES = 1 << 20
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
            raise InputError(f"{file}: takes {len(others) + 1} inputs, the first {shape}; not one batch of images")
        batch, height, width, channels = shape
        super().__init__(
            file,
            replace(info, channels=channels, normalized=True),
            device=torch.device("cpu"),
            names=names,
            fixed_hw=(height, width),
            fixed_batch=batch,
        )
        self.interpreter, self._source, self._turn = interpreter, source, Lock()
        self._targets = sorted(interpreter.get_output_details(), key=lambda detail: len(detail["shape"]))

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        pictures = quantized(images.permute(0, 2, 3, 1).contiguous().numpy(), self._source)
        with self._turn:
            self.interpreter.set_tensor(self._source["index"], pictures)
            self.interpreter.invoke()
            arrays = [self.interpreter.get_tensor(detail["index"]) for detail in self._targets]
        pairs = zip(arrays, self._targets, strict=True)
        return [torch.from_numpy(dequantized(array, detail)) for array, detail in pairs]


def quantized(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """Floats as the type of a tensor: stored = value / scale + zero point, rounded and kept in the type's range."""
    dtype, (scale, zero) = np.dtype(detail["dtype"]), detail["quantization"]
    if dtype.kind == "f" or not scale:
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / np.float32(scale)) + zero, limits.min, limits.max).astype(dtype)


def dequantized(stored: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """The floats that a tensor stands for: value = (stored - zero point) * scale."""
    scale, zero = detail["quantization"]
    values = stored.astype(np.float32)
    return (values - np.float32(zero)) * np.float32(scale) if scale and stored.dtype.kind != "f" else values


def load_tflite(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TfliteBackend:
    """The file in an interpreter on the processor.

    Raises:
        MissingPackageError: no interpreter is installed.
        InputError: no such file, or none of TensorFlow Lite.
    """
    if device.type != "cpu":
        LOGGER.warning(f"WARNING: TensorFlow Lite files run on the CPU here, not on {device}")
    path = existing_file(files[0], "tflite")
    return _load(files[0], read_model(path), import_litert(), names=names)


def load_edgetpu(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TfliteBackend:
    """The file in an interpreter that hands its compiled part to the first Edge TPU.

    Raises:
        MissingPackageError: no interpreter is installed.
        InputError: no such file, none of TensorFlow Lite, or Coral's library or device is missing.
    """
    path = existing_file(files[0], "edgetpu")
    content = read_model(path)
    litert = import_litert()
    library = EDGETPU_LIBRARIES.get(sys.platform, EDGETPU_LIBRARIES["linux"])
    try:
        ctypes.CDLL(library)  # LiteRT's own failure to load it leaves a traceback behind
        delegate = litert.load_delegate(library)
    except (OSError, ValueError) as error:
        missing = f"{library} cannot be loaded ({error}); install it: {EDGETPU_SITE}"
        cause = missing if isinstance(error, OSError) else "no Edge TPU answers; is it plugged in?"
        raise InputError(f"{files[0]}: runs on a Coral Edge TPU only, and {cause}") from error
    return _load(files[0], content, litert, names=names, delegates=[delegate])


def import_litert() -> Any:
    """The first interpreter package that is installed, LiteRT before its older forms.

    Raises:
        MissingPackageError: there is none.
    """
    for package in INTERPRETERS:
        try:
            return import_runtime(package, needed_for="TensorFlow Lite files", install="ai-edge-litert")
        except MissingPackageError:
            continue
    raise MissingPackageError("TensorFlow Lite files need the package ai_edge_litert: pip install ai-edge-litert")


def read_model(path: Path) -> bytes:
    """The content of a file that begins like one of TensorFlow Lite; InputError for others."""
    content = path.read_bytes()
    if content[4:8] != MAGIC:
        raise InputError(f"{path}: is damaged or no TensorFlow Lite file; copy or export it again")
    return content


def read_info(content: bytes, file: str) -> ModelInfo:
    """The description in the archive of text files that follows a model; without one, only the defaults are known.

    The first text that spells a mapping counts; it is parsed as JSON or a literal and never evaluated.

    Raises:
        InputError: there are texts, but none is a mapping of plain data.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [m for m in archive.infolist() if m.file_size <= MAX_INFO_BYTES]
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
            reason = "it is compiled for an Edge TPU; keep the ending _edgetpu.tflite"
        raise InputError(f"{file}: LiteRT cannot run it ({reason}); copy or export it again") from error
    return TfliteBackend(file, interpreter, info, names=names)
