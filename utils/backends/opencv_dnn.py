"""ONNX files, run by OpenCV's DNN module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.onnx_file import read_onnx
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import find_exported_file, import_runtime

REMEDY = "; leave out --dnn, or export it without --nms"


class OpenCvBackend(ExportedBackend):
    """A network of OpenCV; threads take turns."""

    title = "OpenCV DNN"

    def __init__(
        self,
        file: str,
        net: Any,
        info: ModelInfo,
        input_shape: Sequence[int],
        *,
        names: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(file, info, device=torch.device("cpu"), names=names, input_shape=input_shape)
        self.net, self.outputs, self._lock = net, net.getUnconnectedOutLayersNames(), Lock()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        with self._lock:
            try:
                self.net.setInput(images.numpy())
                results = self.net.forward(self.outputs)
            except cv2.error as error:
                raise InputError(
                    f"{self.file}: OpenCV {cv2.__version__} cannot run it ({_get_reason(error)}){REMEDY}"
                ) from error
            return [torch.from_numpy(np.array(result)) for result in results]


def load_opencv_dnn(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> OpenCvBackend:
    """Load an ONNX file in OpenCV, on the CPU.

    Raises:
        InputError: no such file, the package onnx is missing, or OpenCV cannot read the file.
    """
    content = read_onnx(find_exported_file(files[0], "onnx"), files[0])
    info, input_shape = read_onnx_header(content, files[0])
    if fp16 or device.type != "cpu":
        LOGGER.warning("WARNING: --half and --device are ignored: --dnn runs OpenCV in FP32 on the CPU")
    try:
        net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    except cv2.error as error:
        reason = _get_reason(error)
        raise InputError(f"{files[0]}: OpenCV {cv2.__version__} cannot read it ({reason}){REMEDY}") from error
    return OpenCvBackend(files[0], net, info, input_shape, names=names)


def read_onnx_header(content: bytes, file: str) -> tuple[ModelInfo, list[int]]:
    """Metadata and input shape of an ONNX file, which OpenCV does not report; 0 for dynamic axes."""
    onnx = import_runtime("onnx", needed_for="--dnn: ONNX files")
    try:
        model = onnx.load_model_from_string(content)
        source = model.graph.input[0].type.tensor_type
        input_shape = [dim.dim_value for dim in source.shape.dim]
    except Exception as error:  # the module of protobuf's DecodeError differs between releases
        raise InputError(f"{file}: damaged or not an ONNX file; copy or export it again") from error
    if len(input_shape) != 4 or source.elem_type != onnx.TensorProto.FLOAT:
        raise InputError(f"{file}: OpenCV runs FP32 files only; export it without --half, or leave out --dnn")
    return ModelInfo.from_values({entry.key: entry.value for entry in model.metadata_props}, place=file), input_shape


def _get_reason(error: cv2.error) -> str:
    """OpenCV's message without file names."""
    return " ".join(str(error).split())[-160:]
