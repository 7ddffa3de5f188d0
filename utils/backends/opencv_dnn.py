"""ONNX files run by OpenCV's DNN module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.packages import existing_file, import_runtime
from utils.core.errors import InputError
from utils.core.logging import LOGGER

ADVICE = "; leave out --dnn, or export it without --nms"


class OpenCvBackend(ExportedBackend):
    """A network of OpenCV; threads that share it wait for one another."""

    title = "OpenCV DNN"

    def __init__(self, file: str, net: Any, graph: OnnxInput, *, names: Mapping[int, str] | None = None) -> None:
        super().__init__(
            file,
            graph.info,
            device=torch.device("cpu"),
            names=names,
            fixed_hw=graph.fixed_hw,
            fixed_batch=graph.fixed_batch,
        )
        self.net, self.outputs, self._lock = net, net.getUnconnectedOutLayersNames(), Lock()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        with self._lock:
            try:
                self.net.setInput(images.numpy())
                results = self.net.forward(self.outputs)
            except cv2.error as error:
                raise InputError(
                    f"{self.file}: OpenCV {cv2.__version__} cannot run it ({_short(error)}){ADVICE}"
                ) from error
            return [torch.from_numpy(np.array(result)) for result in results]


class OnnxInput:
    """What an ONNX file says of its input and of itself; OpenCV does not tell."""

    def __init__(self, path: Path, place: str) -> None:
        onnx = import_runtime("onnx", needed_for="--dnn: ONNX files")
        try:
            model = onnx.load(path, load_external_data=False)
            source = model.graph.input[0]
            dims = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
        except Exception as error:  # protobuf's DecodeError has moved between its releases
            raise InputError(f"{place}: is damaged or no ONNX file; copy or export it again") from error
        if len(dims) != 4 or source.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise InputError(f"{place}: OpenCV takes FP32 images only; export it without --half, or leave out --dnn")
        batch, channels, height, width = dims
        info = ModelInfo.from_values({entry.key: entry.value for entry in model.metadata_props}, place=place)
        self.info = replace(info, channels=channels or info.channels)
        self.fixed_hw = (height, width) if height and width else None
        self.fixed_batch = batch or None


def load_opencv_dnn(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> OpenCvBackend:
    """The ONNX file as a network of OpenCV, on the processor.

    Raises:
        InputError: no such file, the package onnx is missing, or OpenCV cannot read the file.
    """
    path = existing_file(files[0], "onnx")
    graph = OnnxInput(path, files[0])
    if fp16 or device.type != "cpu":
        LOGGER.warning("WARNING: --dnn: OpenCV computes in FP32 on the CPU; --half and --device are ignored")
    try:
        net = cv2.dnn.readNetFromONNX(np.fromfile(path, np.uint8))
    except cv2.error as error:
        raise InputError(f"{files[0]}: OpenCV {cv2.__version__} cannot read it ({_short(error)}){ADVICE}") from error
    return OpenCvBackend(files[0], net, graph, names=names)


def _short(error: cv2.error) -> str:
    """OpenCV's reason without its file names."""
    return " ".join(str(error).split())[-160:]
