"""ONNX files, run by onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.onnx_file import read_onnx
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import find_exported_file, import_runtime

LOG_FATAL = 4  # log level of onnxruntime: errors are raised as exceptions too
ERROR_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z]))?")
NEWER_VERSION = {  # messages about files that are newer than the package: (version of the file, latest supported)
    "opset": r"Opset (\d+) is .* till opset (\d+)",
    "IR version": r"model IR version: (\d+), max supported IR version: (\d+)",
}
FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class OnnxBackend(ExportedBackend):
    """A session of onnxruntime; thread-safe."""

    title = "onnxruntime"

    def __init__(self, file: str, session: Any, *, device: torch.device, names: Mapping[int, str] | None) -> None:
        source, *others = session.get_inputs()
        shape = source.shape
        if others or source.type not in FLOATS or len(shape) != 4:
            inputs = ", ".join(f"{node.name} {node.type} {node.shape}" for node in session.get_inputs())
            raise InputError(f"{file}: expected a batch of images as the only input, found {inputs}; export it again")
        info = ModelInfo.from_values(session.get_modelmeta().custom_metadata_map, place=file)
        super().__init__(file, info, device=device, names=names, dtype=FLOATS[source.type], input_shape=shape)
        self.session, self.input_name = session, source.name

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        outputs = self.session.run(None, {self.input_name: images.cpu().numpy()})
        return [torch.from_numpy(output).to(self.device) for output in outputs]


def load_onnx(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> OnnxBackend:
    """Load a file in onnxruntime, on the GPU if the installed package supports it.

    Raises:
        InputError: no such file, onnxruntime is missing or cannot run the file.
    """
    content = read_onnx(find_exported_file(files[0], "onnx"), files[0])
    runtime = import_runtime("onnxruntime", needed_for="ONNX files")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    elif device.type != "cpu":
        LOGGER.warning(f"WARNING: onnxruntime runs on the CPU; for {device.type}: pip install onnxruntime-gpu")
        device = torch.device("cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = LOG_FATAL
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not its own format, which is not checked
    try:
        session = runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime's exception classes have no common base
        raise InputError(f"{files[0]}: {_explain_error(error, runtime.__version__)}") from error
    backend = OnnxBackend(files[0], session, device=device, names=names)
    if fp16 and backend.dtype != torch.float16:
        LOGGER.warning(f"WARNING: --half is ignored: {files[0]} was exported in FP32; export it with --half")
    return backend


def _explain_error(error: Exception, version: str) -> str:
    """Error message for a file that onnxruntime does not load."""
    text = ERROR_PREFIX.sub("", " ".join(str(error).split()))
    if type(error).__name__ == "InvalidProtobuf" or "does not have a graph" in text or "No graph was found" in text:
        return "damaged or not an ONNX file; copy or export it again"
    for kind, pattern in NEWER_VERSION.items():
        if match := re.search(pattern, text):
            found, latest = match.groups()
            return f"{kind} {found} is newer than onnxruntime {version} supports ({latest}); pip install -U onnxruntime"
    if "opset" in text.lower():
        return f"onnxruntime {version} does not support its opset ({text[:160]}); pip install -U onnxruntime"
    return f"onnxruntime {version} cannot run it ({text[:200]}); export it again"
