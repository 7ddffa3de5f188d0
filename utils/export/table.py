"""The table of export formats: what `--include` knows, who writes it and which settings it heeds."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.backends.registry import FORMATS
from utils.core.errors import InputError

if TYPE_CHECKING:
    from utils.export.base import ExportJob

NMS_OPTIONS = ("nms", "agnostic", "conf_thres", "iou_thres", "max_det")


@dataclass(frozen=True)
class ExportFormat:
    """A format that `export.py` writes.

    Attributes:
        include: its name for `--include`.
        title: name for messages and tables.
        ending: what replaces `.pt` in the checkpoint's name.
        exporter: "module:function" below utils.export; the function takes an `ExportJob` and gives the path written.
        options: the fields of `ExportOptions` beyond size, batch and device that change what is written.
        normalized: boxes of its output are over width and height of the input.
        stores_half: the file holds FP16 weights whatever the options.
        runs_here: a runtime of utils.backends opens what was written (not on a browser or an accelerator alone).
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
        """Write the file or folder; the converter's packages are imported here and not before.

        Raises:
            InputError: a package is missing, or the settings cannot be had in this format.
        """
        module, _, function = self.exporter.partition(":")
        return getattr(importlib.import_module(f"utils.export.{module}"), function)(job)


def _row(include: str, exporter: str, options: str = "", *, nms: bool = False, **more: Any) -> ExportFormat:
    """A row whose title and ending are those of the format that a runtime opens, unless they are given."""
    honoured = frozenset(options.split()) | frozenset(NMS_OPTIONS if nms else ())
    opened = next((kind for kind in FORMATS if kind.include == include), None)
    if opened is not None:
        more = {"title": opened.title, "ending": opened.ending, **more}
    return ExportFormat(include, exporter=exporter, options=honoured, **more)


INT8 = "half int8 per_tensor data"
EXPORT_FORMATS = (
    _row("torchscript", "torchscript:export_torchscript", "half dynamic optimize", nms=True),
    _row("onnx", "onnx:export_onnx", f"{INT8} dynamic simplify opset", nms=True),
    _row("openvino", "openvino:export_openvino", "half int8 data dynamic", nms=True),
    _row("engine", "tensorrt:export_tensorrt", f"{INT8} dynamic simplify opset workspace cache verbose", nms=True),
    _row("coreml", "coreml:export_coreml", "half int8", nms=True),
    _row("saved_model", "tensorflow:export_saved_model", "dynamic keras", normalized=True),
    _row("pb", "tensorflow:export_graph_def", "dynamic", normalized=True),
    _row("tflite", "tflite:export_tflite", INT8, normalized=True),
    _row(
        "edgetpu",
        "tflite:export_edgetpu",
        "int8 per_tensor data",
        ending="-int8_edgetpu.tflite",
        normalized=True,
        runs_here=False,
    ),
    _row("tfjs", "tensorflow:export_tfjs", "half int8", normalized=True, runs_here=False),
    _row("paddle", "paddle:export_paddle", "dynamic"),
    _row("pickle", "pickle:export_pickle", title="PyTorch whole module", ending="_pickle.pt", stores_half=True),
)


def export_formats(names: Iterable[str]) -> list[ExportFormat]:
    """The rows for the values of `--include`, each once, in the order given.

    Raises:
        InputError: a name is not in the table.
    """
    known = {kind.include: kind for kind in EXPORT_FORMATS}
    found: dict[str, ExportFormat] = {}
    for name in names:
        key = name.lower().lstrip(".")
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? known" if near else "known"
            raise InputError(f"--include {name}: no such format; {hint}: {', '.join(known)}")
        found[key] = known[key]
    return list(found.values())
