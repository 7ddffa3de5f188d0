"""CoreML packages and models, run on macOS."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.core.errors import InputError
from utils.core.packages import MissingPackageError, find_exported_file, import_runtime

BOXES, SCORES = "coordinates", "confidence"  # outputs of Apple's NMS stage in older exports


@dataclass(frozen=True)
class CoreMLDescription:
    """Input, outputs and metadata of a model.

    Attributes:
        input_name: name of the image input.
        size_hw: height and width of the image.
        outputs: shape by name; empty if the spec does not state it.
        info: metadata.
    """

    input_name: str
    size_hw: tuple[int, int]
    outputs: dict[str, tuple[int, ...]]
    info: ModelInfo


def describe_spec(spec: Any, file: str) -> CoreMLDescription:
    """Read the description of a CoreML spec, on any operating system.

    Raises:
        InputError: the input is not a single image.
    """
    sources = [source for source in spec.description.input if not source.type.isOptional]
    if len(sources) != 1 or sources[0].type.WhichOneof("Type") != "imageType":
        raise InputError(f"{file}: expected an image as the only input; export it again")
    image = sources[0].type.imageType
    return CoreMLDescription(
        input_name=sources[0].name,
        size_hw=(image.height, image.width),
        outputs={output.name: tuple(output.type.multiArrayType.shape) for output in spec.description.output},
        info=ModelInfo.from_values(dict(spec.description.metadata.userDefined), place=file),
    )


class CoreMLBackend(ExportedBackend):
    """A model run by CoreML, one image at a time; threads take turns."""

    title = "CoreML"

    def __init__(
        self,
        file: str,
        model: Any,
        description: CoreMLDescription,
        *,
        device: torch.device,
        names: Mapping[int, str] | None,
    ) -> None:
        input_shape = (None, None, *description.size_hw)
        super().__init__(file, description.info, device=device, names=names, input_shape=input_shape)
        self.model, self.description, self._lock = model, description, threading.Lock()
        self.has_nms_stage = {BOXES, SCORES} <= description.outputs.keys()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        parts = [self._run_one(image) for image in images]
        return [pad_sequence(list(output), batch_first=True).to(self.device) for output in zip(*parts, strict=True)]

    def _run_one(self, image: Tensor) -> list[Tensor]:
        """Outputs for one image (C, H, W), without a batch axis."""
        pixels = image.permute(1, 2, 0).mul(255).round().to(torch.uint8).cpu().numpy()  # (H, W, C)
        with self._lock:
            results = self.model.predict({self.description.input_name: Image.fromarray(pixels)})
        names = self.description.outputs
        outputs = {name: torch.from_numpy(np.asarray(results[name], dtype=np.float32)) for name in names}
        if self.has_nms_stage:
            return [decode_nms_stage(outputs[BOXES], outputs[SCORES], self.description.size_hw)]
        return [output[0] for output in sorted(outputs.values(), key=lambda output: output.ndim)]  # prototypes last


def decode_nms_stage(boxes: Tensor, scores: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Convert the output of Apple's NMS stage to the form of a decoded head output.

    Args:
        boxes: (n, 4) x, y, w, h relative to the image's width and height.
        scores: (n, num_classes).

    Returns:
        (n, 5 + num_classes): boxes in pixels, objectness 1, scores.
    """
    height, width = size_hw
    pixels = boxes * boxes.new_tensor([width, height, width, height])
    return torch.cat((pixels, torch.ones_like(scores[:, :1]), scores), dim=1)


def load_coreml(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> CoreMLBackend:
    """Load a package or an older model file in CoreML, which chooses between CPU, GPU and neural engine.

    Raises:
        MissingPackageError: not macOS, or the package coremltools is missing.
        InputError: no such file, or not a CoreML model.
    """
    path = find_exported_file(files[0], "coreml", folder=Path(files[0]).suffix.lower() == ".mlpackage")
    if sys.platform != "darwin":
        raise MissingPackageError(f"{files[0]}: CoreML models run on macOS only; use another format, such as ONNX")
    tools = import_runtime("coremltools", needed_for="CoreML files")
    model = open_model(path, tools)
    return CoreMLBackend(
        files[0], model, describe_spec(model.get_spec(), files[0]), device=torch.device("cpu"), names=names
    )


def open_model(path: Path, tools: Any, *, spec_only: bool = False) -> Any:
    """Open a `coremltools.models.MLModel`; InputError if the file is not one."""
    try:
        return tools.models.MLModel(str(path), skip_model_load=spec_only)
    except Exception as error:  # protobuf, coremltools and macOS raise different exceptions
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: damaged or not a CoreML model ({reason}); export it again") from error
