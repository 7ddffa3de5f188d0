"""Export formats of `--include`, with their exporters and supported options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.backends.registry import FORMATS
from utils.core.errors import InputError
from utils.core.lazy import import_project_module

if TYPE_CHECKING:
    from utils.export.base import ExportJob

NMS_OPTIONS = ("nms", "agnostic", "conf_thres", "iou_thres", "max_det")


@dataclass(frozen=True)
class ExportFormat:
    """An export format.

    Attributes:
        include: name for `--include`.
        title: name in messages and tables.
        ending: suffix that replaces `.pt` of the checkpoint.
        exporter: "module:function" in utils.export; the function takes an `ExportJob` and returns the written path.
        options: supported fields of `ExportOptions`, besides image size, batch and device.
        normalized: boxes are divided by width and height of the input.
        stores_half: weights are always FP16.
        runs_here: a runtime of utils.backends can run the file on this kind of machine.
    """

    include: str
    title: str
    ending: str
    exporter: str
    options: frozenset[str] = frozenset()
    normalized: bool = False
    stores_half: bool = False
    runs_here: bool = True

    def export(self, job: ExportJob) -> Path:
        """Write the file or folder; imports the packages of the converter.

        Raises:
            InputError: a package is missing, or a setting is not supported.
        """
        module, _, function = self.exporter.partition(":")
        return getattr(import_project_module(f"utils.export.{module}"), function)(job)


def _build_format(include: str, exporter: str, options: str = "", *, nms: bool = False, **more: Any) -> ExportFormat:
    """Build a row; title and suffix default to those of the runtime's format."""
    supported = frozenset(options.split()) | frozenset(NMS_OPTIONS if nms else ())
    runtime_format = next((fmt for fmt in FORMATS if fmt.include == include), None)
    if runtime_format is not None:
        more = {"title": runtime_format.title, "ending": runtime_format.ending, **more}
    return ExportFormat(include, exporter=exporter, options=supported, **more)


INT8 = "half int8 per_tensor data"
EXPORT_FORMATS = (
    _build_format("torchscript", "torchscript:export_torchscript", "half dynamic optimize", nms=True),
    _build_format("onnx", "onnx:export_onnx", f"{INT8} dynamic simplify opset", nms=True),
    _build_format("openvino", "openvino:export_openvino", "half int8 data dynamic", nms=True),
    _build_format(
        "engine", "tensorrt:export_tensorrt", f"{INT8} dynamic simplify opset workspace cache verbose", nms=True
    ),
    _build_format("coreml", "coreml:export_coreml", "half int8", nms=True),
    _build_format("saved_model", "tensorflow:export_saved_model", "dynamic keras", normalized=True),
    _build_format("pb", "tensorflow:export_graph_def", "dynamic", normalized=True),
    _build_format("tflite", "tflite:export_tflite", INT8, normalized=True),
    _build_format(
        "edgetpu",
        "tflite:export_edgetpu",
        "int8 per_tensor data",
        ending="-int8_edgetpu.tflite",
        normalized=True,
        runs_here=False,
    ),
    _build_format("tfjs", "tensorflow:export_tfjs", "half int8", normalized=True, runs_here=False),
    _build_format("paddle", "paddle:export_paddle", "dynamic"),
    _build_format("pickle", "pickle:export_pickle", title="PyTorch full module", ending="_pickle.pt", stores_half=True),
)


def find_export_formats(names: Iterable[str]) -> list[ExportFormat]:
    """Find the formats for the values of `--include`, without repetitions, in the order given.

    Raises:
        InputError: unknown format.
    """
    by_name = {fmt.include: fmt for fmt in EXPORT_FORMATS}
    formats: dict[str, ExportFormat] = {}
    for name in names:
        key = name.lower().lstrip(".")
        if key not in by_name:
            near = get_close_matches(key, by_name, n=1)
            hint = f"did you mean {near[0]}? known" if near else "known"
            raise InputError(f"--include {name}: no such format; {hint}: {', '.join(by_name)}")
        formats[key] = by_name[key]
    return list(formats.values())
