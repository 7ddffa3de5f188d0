"""OpenVINO models, run on the processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import local
from typing import Any

import torch
import yaml
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.packages import existing_file, import_runtime
from utils.core.device import bf16_pays, computes_in_bf16
from utils.core.errors import InputError
from utils.core.logging import LOGGER


class OpenVinoBackend(ExportedBackend):
    """A compiled model; each thread that calls it has a request of its own."""

    title = "OpenVINO"

    def __init__(self, file: str, compiled: Any, info: ModelInfo, *, names: Mapping[int, str] | None = None) -> None:
        shape = compiled.input(0).partial_shape
        if len(compiled.inputs) != 1 or shape.rank.is_dynamic or len(shape) != 4:
            raise InputError(f"{file}: takes {shape}, not one batch of images; export it again")
        batch, channels, height, width = (None if side.is_dynamic else side.get_length() for side in shape)
        super().__init__(
            file,
            replace(info, channels=channels or info.channels),
            device=torch.device("cpu"),
            names=names,
            fixed_hw=(height, width) if height and width else None,
            fixed_batch=batch,
        )
        self.compiled, self._requests = compiled, local()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self.compiled.create_infer_request()
        results = self._requests.own.infer([images.numpy()], share_inputs=True)
        return [torch.from_numpy(results[output]) for output in self.compiled.outputs]


def load_openvino(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> OpenVinoBackend:
    """The model of a folder compiled for the processor, computing in FP32 unless `fp16` lets OpenVINO choose.

    `fp16` is ignored with a warning where it would choose BF16 and that is slower.

    Raises:
        InputError: no such folder, no model in it, the package is missing, or the model cannot be read.
    """
    folder = existing_file(files[0], "openvino", folder=True)
    xml = find_model(folder)
    runtime = import_runtime("openvino", needed_for="OpenVINO models")
    if device.type != "cpu":
        LOGGER.warning(f"WARNING: OpenVINO models run on the CPU here, not on {device}")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    if fp16 and computes_in_bf16(torch.device("cpu")) and not bf16_pays():
        LOGGER.warning("WARNING: --half is ignored: OpenVINO would compute in BF16, in which this CPU is slower")
        fp16 = False
    if not fp16:  # left to itself it takes bf16 where AMX is reported, also on virtual machines that then refuse it
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        core = runtime.Core()
        compiled = core.compile_model(core.read_model(xml), "CPU", settings)
    except RuntimeError as error:
        version = runtime.__version__.split("-")[0]
        reason = " ".join(str(error).split())[-160:]
        raise InputError(f"{xml}: OpenVINO {version} cannot read it ({reason}); copy or export it again") from error
    return OpenVinoBackend(files[0], compiled, read_info(xml.with_suffix(".yaml")), names=names)


def find_model(folder: Path) -> Path:
    """The .xml file of a folder, whose weights lie beside it.

    Raises:
        InputError: there is none, there are several, or the weights are missing.
    """
    found = sorted(folder.glob("*.xml"))
    if len(found) != 1:
        what = "no .xml file" if not found else f"several .xml files ({', '.join(p.name for p in found)})"
        raise InputError(f"{folder}: {what}, but an OpenVINO folder holds one; export it again")
    if not found[0].with_suffix(".bin").is_file():
        raise InputError(f"{folder}: {found[0].stem}.bin is missing; copy the whole folder")
    return found[0]


def read_info(file: Path) -> ModelInfo:
    """The metadata beside a model; of a model without, only the defaults are known.

    Raises:
        InputError: the file is no YAML mapping of plain data.
    """
    if not file.is_file():
        return ModelInfo()
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{file}: not plain YAML ({reason}); export it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected a mapping of stride and names; export it again")
    return ModelInfo.from_values(values, place=str(file))
