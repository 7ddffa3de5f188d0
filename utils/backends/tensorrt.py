"""TensorRT engines, run on NVIDIA GPUs."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.packages import existing_file, import_runtime
from utils.core.errors import InputError
from utils.core.logging import LOGGER

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
HEADER_BYTES = 4  # length of the description that other tools put before the engine, least significant byte first
MOST_HEADER = 2**24
LEAST_RELEASE = (8, 5)  # tensors by name


def description_file(engine: Path) -> Path:
    """Where the description of an engine lies: beside it, so that the engine itself is TensorRT's alone."""
    return engine.with_name(engine.name + ".json")


def split_header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Description and engine of a file; other tools write a length and JSON text before the engine.

    A file without such a header comes back whole with an empty description.
    """
    length = int.from_bytes(content[:HEADER_BYTES], "little")
    end = HEADER_BYTES + length
    if not 2 <= length <= MOST_HEADER or end >= len(content):
        return {}, content
    try:
        values = json.loads(content[HEADER_BYTES:end].decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        return {}, content
    return (values, content[end:]) if isinstance(values, dict) else ({}, content)


class TensorRTBackend(ExportedBackend):
    """An engine with one execution context; threads take turns.

    Args:
        engine: `tensorrt.ICudaEngine`.
        stream: on which it runs.
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
        sources = [name for name in tensors if engine.get_tensor_mode(name).name == "INPUT"]
        shape = tuple(engine.get_tensor_shape(sources[0])) if len(sources) == 1 else ()
        if len(shape) != 4 or (dtype := _type_of(engine, sources[0])) is None or not dtype.is_floating_point:
            raise InputError(
                f"{file}: takes {', '.join(sources) or 'nothing'}, not one batch of images; export it again"
            )
        batch, channels, height, width = (side if side > 0 else None for side in shape)
        super().__init__(
            file,
            replace(info, channels=channels or info.channels),
            device=device,
            names=names,
            dtype=dtype,
            fixed_hw=(height, width) if height and width else None,
            fixed_batch=batch,
        )
        self.engine, self.stream, self.input_name = engine, stream, sources[0]
        self.output_names = [name for name in tensors if name not in sources]
        self.context, self._turn = engine.create_execution_context(), threading.Lock()
        self.limits = None if min(shape) > 0 else _limits(engine, self.input_name)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        most = self.limits[1][0] if self.limits else len(images)
        with self._turn:
            parts = [self._run_some(part) for part in images.split(most)]
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def _run_some(self, images: Tensor) -> list[Tensor]:
        """Outputs for as many images as the engine takes at once."""
        shape = tuple(images.shape)
        if not self._allowed(shape) or not self.context.set_input_shape(self.input_name, shape):
            raise InputError(
                f"{self.file}: takes {self._sizes()}, not {shape[2]}x{shape[3]} images; give another --imgsz"
            )
        outputs = []
        self.context.set_tensor_address(self.input_name, images.data_ptr())
        for name in self.output_names:
            outputs.append(
                torch.empty(
                    tuple(self.context.get_tensor_shape(name)), dtype=_type_of(self.engine, name), device=images.device
                )
            )
            self.context.set_tensor_address(name, outputs[-1].data_ptr())
        waiting = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(waiting)
        done = self.context.execute_async_v3(self.stream.cuda_stream)
        waiting.wait_stream(self.stream)
        if not done:
            raise InputError(f"{self.file}: TensorRT failed to run the engine; its log above says why")
        return outputs

    def _allowed(self, shape: tuple[int, ...]) -> bool:
        if self.limits is None:
            return True
        return all(low <= side <= high for low, side, high in zip(self.limits[0], shape, self.limits[1], strict=True))

    def _sizes(self) -> str:
        """The images an engine takes, for messages."""
        low, high = self.limits or (self.engine.get_tensor_shape(self.input_name),) * 2
        return f"{low[2]}x{low[3]} to {high[2]}x{high[3]} images, up to {high[0]} at once"


def _type_of(engine: Any, name: str) -> torch.dtype | None:
    return TYPES.get(engine.get_tensor_dtype(name).name)


def _limits(engine: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest and largest shape of a dynamic input."""
    smallest, _, largest = engine.get_tensor_profile_shape(name, 0)
    return tuple(smallest), tuple(largest)


def load_tensorrt(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TensorRTBackend:
    """The engine on the GPU, described by the JSON file beside it or by the header that other tools write.

    Raises:
        MissingPackageError: TensorRT is not installed.
        InputError: no such file, no GPU is named, or the engine is damaged or of another TensorRT or GPU.
    """
    path = existing_file(files[0], "engine")
    if device.type != "cuda":
        raise InputError(f"{files[0]}: TensorRT engines run on an NVIDIA GPU, not on {device.type}; give --device 0")
    trt = import_runtime("tensorrt", needed_for="TensorRT engines")
    release = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if release < LEAST_RELEASE:
        raise InputError(
            f"TensorRT {trt.__version__}: is too old, 8.5 is the first that works here; install a newer one"
        )
    header, content = split_header(path.read_bytes())
    info = ModelInfo.from_values(_beside(path) or header, place=files[0])
    with torch.cuda.device(device):
        engine = open_engine(trt, content, files[0])
        backend = TensorRTBackend(
            files[0], engine, info, device=device, names=names, stream=torch.cuda.Stream(device=device)
        )
    if fp16 and backend.dtype != torch.float16:
        LOGGER.warning(f"WARNING: --half is ignored: {files[0]} was exported in FP32; export it with --half")
    return backend


def open_engine(trt: Any, content: bytes, file: str) -> Any:
    """The `tensorrt.ICudaEngine` of its serialized form; InputError where TensorRT refuses it."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise InputError(
            f"{file}: TensorRT {trt.__version__} cannot read it: it is damaged, or was built by another release or for "
            "another GPU; export it on this machine"
        )
    return engine


def _beside(path: Path) -> dict[str, Any]:
    """What the description file says; empty where there is none."""
    file = description_file(path)
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error}); export the engine again, or remove the file") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: is no JSON object; export the engine again, or remove the file")
    return values
