"""ONNX files run by onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.packages import existing_file, import_runtime
from utils.core.errors import InputError
from utils.core.logging import LOGGER

NO_LOG = 4  # level of onnxruntime: its errors are exceptions too
PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z]))?")  # place in its code
NEWER = {  # what tells that a file is newer than the package: its own number, the highest known one
    "opset": r"Opset (\d+) is .* till opset (\d+)",
    "IR version": r"model IR version: (\d+), max supported IR version: (\d+)",
}
FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class OnnxBackend(ExportedBackend):
    """A session of onnxruntime; any number of threads may share it."""

    title = "onnxruntime"

    def __init__(self, file: str, session: Any, *, device: torch.device, names: Mapping[int, str] | None) -> None:
        source, *others = session.get_inputs()
        shape = source.shape
        if others or source.type not in FLOATS or len(shape) != 4:
            raise InputError(f"{file}: takes {describe_inputs(session)}, not one batch of images; export it again")
        channels, height, width = (side if isinstance(side, int) else None for side in shape[1:])
        info = ModelInfo.from_values(session.get_modelmeta().custom_metadata_map, place=file)
        super().__init__(
            file,
            replace(info, channels=channels or info.channels),
            device=device,
            names=names,
            dtype=FLOATS[source.type],
            fixed_hw=(height, width) if height and width else None,
            fixed_batch=shape[0] if isinstance(shape[0], int) else None,
        )
        self.session, self.input_name = session, source.name

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        outputs = self.session.run(None, {self.input_name: images.cpu().numpy()})
        return [torch.from_numpy(output).to(self.device) for output in outputs]


def load_onnx(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> OnnxBackend:
    """The file in a session of onnxruntime: on the GPU where the package has it, else on the CPU.

    Raises:
        InputError: no such file, the package is missing, or the file is none that it can run.
    """
    path = existing_file(files[0], "onnx")
    runtime = import_runtime("onnxruntime", needed_for="ONNX files")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    elif device.type != "cpu":
        LOGGER.warning(f"WARNING: this onnxruntime runs on the CPU; for {device.type}: pip install onnxruntime-gpu")
        device = torch.device("cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = NO_LOG
    try:
        session = runtime.InferenceSession(path.read_bytes(), options, providers=providers)
    except Exception as error:  # onnxruntime has a class of its own for each kind, with no common base
        raise InputError(f"{files[0]}: {_reason(error, runtime.__version__)}") from error
    backend = OnnxBackend(files[0], session, device=device, names=names)
    if fp16 and backend.dtype != torch.float16:
        LOGGER.warning(f"WARNING: --half is ignored: {files[0]} was exported in FP32; export it with --half")
    return backend


def describe_inputs(session: Any) -> str:
    """Names, types and shapes of a session's inputs, for messages."""
    return ", ".join(f"{source.name} {source.type} {source.shape}" for source in session.get_inputs()) or "no input"


def _reason(error: Exception, version: str) -> str:
    """What onnxruntime says of a file, as the start of a line."""
    text = PREFIX.sub("", " ".join(str(error).split()))
    if type(error).__name__ == "InvalidProtobuf" or "does not have a graph" in text or "No graph was found" in text:
        return "is damaged or no ONNX file; copy or export it again"
    for kind, pattern in NEWER.items():
        if found := re.search(pattern, text):
            own, most = found.groups()
            known = f"onnxruntime {version} does not know its {kind} ({own}, but {most} at most)"
            return f"{known}; pip install -U onnxruntime"
    if "opset" in text.lower():
        return f"onnxruntime {version} does not know its opset ({text[:160]}); pip install -U onnxruntime"
    return f"onnxruntime {version} cannot run it ({text[:200]}); export it again"
