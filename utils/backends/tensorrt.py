"""TensorRT engines, run on NVIDIA GPUs."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import MAX_FILE_BYTES, ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError
from utils.core.files import read_file
from utils.core.logging import LOGGER
from utils.core.packages import find_exported_file, import_runtime

TYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}
LENGTH_BYTES = 4  # little-endian length of the JSON header that other tools write before the engine
MAX_HEADER_LENGTH = 2**24
MIN_VERSION = (8, 5)  # first with named tensors


def get_metadata_path(engine: Path) -> Path:
    """Path of an engine's metadata: a file of its own, so that TensorRT can read the engine directly."""
    return engine.with_name(engine.name + ".json")


def split_header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Split off the header of other tools, a length and JSON text; returns (metadata, engine).

    The metadata is empty if there is no such header.
    """
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    end = LENGTH_BYTES + length
    if not 2 <= length <= MAX_HEADER_LENGTH or end >= len(content):
        return {}, content
    try:
        values = json.loads(content[LENGTH_BYTES:end].decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        return {}, content
    return (values, content[end:]) if isinstance(values, dict) else ({}, content)


class TensorRTBackend(ExportedBackend):
    """An engine with one execution context; threads take turns.

    Args:
        engine: `tensorrt.ICudaEngine`.
        stream: CUDA stream to run on.
    """

    title = "TensorRT"

    def __init__(
        self,
        file: str,
        engine: Any,
        info: ModelInfo,
        *,
        device: torch.device,
        names: Mapping[int, str] | None,
        stream: torch.cuda.Stream,
    ) -> None:
        tensors = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in tensors if engine.get_tensor_mode(name).name == "INPUT"]
        shape = tuple(engine.get_tensor_shape(inputs[0])) if len(inputs) == 1 else ()
        if len(shape) != 4 or (dtype := _get_dtype(engine, inputs[0])) is None or not dtype.is_floating_point:
            found = ", ".join(inputs) or "none"
            raise InputError(f"{file}: expected a batch of images as the only input, found {found}; export it again")
        super().__init__(file, info, device=device, names=names, dtype=dtype, input_shape=shape)
        self.engine, self.stream, self.input_name = engine, stream, inputs[0]
        self.output_names = [name for name in tensors if name not in inputs]
        self.context, self._lock = engine.create_execution_context(), threading.Lock()
        self.limits = None if min(shape) > 0 else _get_limits(engine, self.input_name)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        max_batch = self.limits[1][0] if self.limits else len(images)
        with self._lock:
            batches = [self._run_batch(batch) for batch in images.split(max_batch)]
        return [torch.cat(outputs) for outputs in zip(*batches, strict=True)]

    def _run_batch(self, images: Tensor) -> list[Tensor]:
        """Outputs for a batch that the engine accepts."""
        shape = tuple(images.shape)
        if not self._is_within_limits(shape) or not self.context.set_input_shape(self.input_name, shape):
            raise InputError(
                f"{self.file}: accepts {self._describe_limits()}, got {shape[2]}x{shape[3]}; use another --imgsz"
            )
        outputs = []
        self.context.set_tensor_address(self.input_name, images.data_ptr())
        for name in self.output_names:
            output_shape, dtype = tuple(self.context.get_tensor_shape(name)), _get_dtype(self.engine, name)
            outputs.append(torch.empty(output_shape, dtype=dtype, device=images.device))
            self.context.set_tensor_address(name, outputs[-1].data_ptr())
        torch_stream = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(torch_stream)
        succeeded = self.context.execute_async_v3(self.stream.cuda_stream)
        torch_stream.wait_stream(self.stream)
        if not succeeded:
            raise InputError(f"{self.file}: TensorRT failed to run the engine; see its log above")
        return outputs

    def _is_within_limits(self, shape: tuple[int, ...]) -> bool:
        if self.limits is None:
            return True
        return all(low <= side <= high for low, side, high in zip(self.limits[0], shape, self.limits[1], strict=True))

    def _describe_limits(self) -> str:
        """Accepted images, for messages."""
        low, high = self.limits or (self.engine.get_tensor_shape(self.input_name),) * 2
        return f"images of {low[2]}x{low[3]} to {high[2]}x{high[3]} in batches of up to {high[0]}"


def _get_dtype(engine: Any, name: str) -> torch.dtype | None:
    return TYPES.get(engine.get_tensor_dtype(name).name)


def _get_limits(engine: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest and largest shape of a dynamic input."""
    smallest, _, largest = engine.get_tensor_profile_shape(name, 0)
    return tuple(smallest), tuple(largest)


def load_tensorrt(
    files: Sequence[str],
    *,
    device: torch.device,
    fp16: bool = False,
    names: Mapping[int, str] | None = None,
    trust: bool = False,
) -> TensorRTBackend:
    """Load an engine on the GPU, with metadata from the JSON file beside it or from the header of other tools.

    Args:
        trust: required, because an engine contains code of the GPU and plugins.

    Raises:
        MissingPackageError: TensorRT is not installed.
        UntrustedError: `trust` is not set.
        InputError: no such file, the device is not a GPU, or the engine is damaged or for another TensorRT or GPU.
    """
    path = find_exported_file(files[0], "engine")
    if device.type != "cuda":
        raise InputError(f"{files[0]}: TensorRT engines run on an NVIDIA GPU, not on {device.type}; use --device 0")
    if not trust:
        raise UntrustedError(files[0], "a TensorRT engine is a program, which cannot be checked")
    trt = import_runtime("tensorrt", needed_for="TensorRT engines")
    release = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if release < MIN_VERSION:
        raise InputError(f"TensorRT {trt.__version__} is too old; install 8.5 or later")
    header, content = split_header(read_file(path, max_bytes=MAX_FILE_BYTES))
    info = ModelInfo.from_values(_read_metadata_file(path) or header, place=files[0])
    with torch.cuda.device(device):
        engine = open_engine(trt, content, files[0])
        backend = TensorRTBackend(
            files[0], engine, info, device=device, names=names, stream=torch.cuda.Stream(device=device)
        )
    if fp16 and backend.dtype != torch.float16:
        LOGGER.warning(f"WARNING: --half is ignored: {files[0]} was exported in FP32; export it with --half")
    return backend


def open_engine(trt: Any, content: bytes, file: str) -> Any:
    """Deserialize a `tensorrt.ICudaEngine`; InputError if TensorRT refuses it."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise InputError(
            f"{file}: TensorRT {trt.__version__} cannot read it: damaged, or built by another release or for another "
            "GPU; export it on this machine"
        )
    return engine


def _read_metadata_file(path: Path) -> dict[str, Any]:
    """The metadata beside an engine; empty if there is no file."""
    file = get_metadata_path(path)
    if not file.is_file():
        return {}
    content = read_file(file, max_bytes=MAX_HEADER_LENGTH)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error}); export the engine again, or remove the file") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: not a JSON object; export the engine again, or remove the file")
    return values
