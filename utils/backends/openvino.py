"""OpenVINO models, run on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import local
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.core.device import is_bf16_faster, supports_bf16
from utils.core.errors import InputError
from utils.core.files import read_file
from utils.core.logging import LOGGER
from utils.core.packages import find_exported_file, import_runtime
from utils.core.yaml_files import read_yaml

MAX_XML_BYTES = 2**28
XML_STARTS = (b"<?xml", b"<net")  # OpenVINO also reads other formats under this name, which may refer to any file


class OpenVinoBackend(ExportedBackend):
    """A compiled model; thread-safe, with one inference request per thread."""

    title = "OpenVINO"

    def __init__(self, file: str, compiled: Any, info: ModelInfo, *, names: Mapping[int, str] | None = None) -> None:
        shape = compiled.input(0).partial_shape
        if len(compiled.inputs) != 1 or shape.rank.is_dynamic or len(shape) != 4:
            raise InputError(f"{file}: expected a batch of images as the only input, found {shape}; export it again")
        input_shape = [None if side.is_dynamic else side.get_length() for side in shape]
        super().__init__(file, info, device=torch.device("cpu"), names=names, input_shape=input_shape)
        self.compiled, self._requests = compiled, local()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        if not hasattr(self._requests, "current"):
            self._requests.current = self.compiled.create_infer_request()
        results = self._requests.current.infer([images.numpy()], share_inputs=True)
        return [torch.from_numpy(results[output]) for output in self.compiled.outputs]


def load_openvino(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> OpenVinoBackend:
    """Compile the model of a folder for the CPU: in FP32, or with `fp16` in the precision that OpenVINO chooses.

    `fp16` is ignored with a warning if OpenVINO would choose BF16 on a CPU where that is slower.

    Raises:
        InputError: no such folder, no model in it, the package is missing, or the model cannot be read.
    """
    folder = find_exported_file(files[0], "openvino", folder=True)
    xml = find_xml(folder)
    runtime = import_runtime("openvino", needed_for="OpenVINO models")
    if device.type != "cpu":
        LOGGER.warning(f"WARNING: OpenVINO models run on the CPU, not on {device}")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    if fp16 and supports_bf16(torch.device("cpu")) and not is_bf16_faster():
        LOGGER.warning("WARNING: --half is ignored: OpenVINO would use BF16, which is slower on this CPU")
        fp16 = False
    if not fp16:  # the default is BF16 if the CPU reports AMX, even on virtual machines that do not support it
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        core = runtime.Core()
        compiled = core.compile_model(core.read_model(xml), "CPU", settings)
    except RuntimeError as error:
        version = runtime.__version__.split("-")[0]
        reason = " ".join(str(error).split())[-160:]
        raise InputError(f"{xml}: OpenVINO {version} cannot read it ({reason}); copy or export it again") from error
    return OpenVinoBackend(files[0], compiled, read_info(xml.with_suffix(".yaml")), names=names)


def find_xml(folder: Path) -> Path:
    """Find the .xml file of a folder, with its weights beside it.

    Raises:
        InputError: not exactly one .xml file, it is not XML, or its weights are missing.
    """
    files = sorted(folder.glob("*.xml"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise InputError(f"{folder}: expected one .xml file, found {names}; export it again")
    if not files[0].with_suffix(".bin").is_file():
        raise InputError(f"{folder}: {files[0].stem}.bin is missing; copy the whole folder")
    if not read_file(files[0], max_bytes=MAX_XML_BYTES).lstrip().startswith(XML_STARTS):
        raise InputError(f"{files[0]}: damaged or not an OpenVINO model; copy or export it again")
    return files[0]


def read_info(file: Path) -> ModelInfo:
    """Read the metadata file beside a model; defaults if there is none.

    Raises:
        InputError: not a YAML mapping of plain data.
    """
    if not file.is_file():
        return ModelInfo()
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected a mapping of stride and names; export it again")
    return ModelInfo.from_values(values, place=str(file))
