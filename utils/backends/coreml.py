"""CoreML packages and models, run by macOS."""

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
from utils.backends.packages import MissingPackageError, existing_file, import_runtime
from utils.core.errors import InputError

BOXES, SCORES = "coordinates", "confidence"  # outputs of Apple's own NMS stage, as in older exports with NMS


@dataclass(frozen=True)
class CoreMLDescription:
    """What the spec of a model says of it.

    Attributes:
        input_name: of the image.
        size_hw: its height and width.
        outputs: shape by name; an empty shape where the spec leaves it open.
        info: metadata.
    """

    input_name: str
    size_hw: tuple[int, int]
    outputs: dict[str, tuple[int, ...]]
    info: ModelInfo


def describe_spec(spec: Any, file: str) -> CoreMLDescription:
    """Input, outputs and metadata of a CoreML spec; it can be read on any system.

    Raises:
        InputError: its input is not one image.
    """
    sources = [source for source in spec.description.input if not source.type.isOptional]
    if len(sources) != 1 or sources[0].type.WhichOneof("Type") != "imageType":
        raise InputError(f"{file}: its input is not one image; export it again")
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
        described: CoreMLDescription,
        *,
        device: torch.device,
        names: Mapping[int, str] | None,
    ) -> None:
        super().__init__(file, described.info, device=device, names=names, fixed_hw=described.size_hw)
        self.model, self.described, self._turn = model, described, threading.Lock()
        self.staged = {BOXES, SCORES} <= described.outputs.keys()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        parts = [self._run_one(image) for image in images]
        return [pad_sequence(list(output), batch_first=True).to(self.device) for output in zip(*parts, strict=True)]

    def _run_one(self, image: Tensor) -> list[Tensor]:
        """Outputs for one image (C, H, W), without the axis of the batch."""
        pixels = image.permute(1, 2, 0).mul(255).round().to(torch.uint8).cpu().numpy()  # (H, W, C)
        with self._turn:
            found = self.model.predict({self.described.input_name: Image.fromarray(pixels)})
        outputs = {name: torch.from_numpy(np.asarray(found[name], dtype=np.float32)) for name in self.described.outputs}
        if self.staged:
            return [decoded_rows(outputs[BOXES], outputs[SCORES], self.described.size_hw)]
        return [output[0] for output in sorted(outputs.values(), key=lambda output: output.ndim)]  # prototypes last


def decoded_rows(boxes: Tensor, scores: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """What Apple's NMS stage leaves as rows of a head, so that they are read like any other output.

    Args:
        boxes: (n, 4) x, y, w, h over the image's width and height.
        scores: (n, num_classes).

    Returns:
        (n, 5 + num_classes) with boxes in pixels and objectness 1.
    """
    height, width = size_hw
    pixels = boxes * boxes.new_tensor([width, height, width, height])
    return torch.cat((pixels, torch.ones_like(scores[:, :1]), scores), dim=1)


def load_coreml(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> CoreMLBackend:
    """The package, or older model file, in CoreML, which chooses among CPU, GPU and neural engine by itself.

    Raises:
        MissingPackageError: this is no macOS, or the package coremltools is missing.
        InputError: the file is none of CoreML.
    """
    path = _existing(files[0])
    if sys.platform != "darwin":
        raise MissingPackageError(
            f"{files[0]}: CoreML models run on macOS only; give another format here, such as ONNX"
        )
    tools = import_runtime("coremltools", needed_for="CoreML files")
    model = open_model(path, tools)
    return CoreMLBackend(
        files[0], model, describe_spec(model.get_spec(), files[0]), device=torch.device("cpu"), names=names
    )


def open_model(path: Path, tools: Any, *, spec_only: bool = False) -> Any:
    """The `coremltools.models.MLModel` of a file; InputError where it is none."""
    try:
        return tools.models.MLModel(str(path), skip_model_load=spec_only)
    except Exception as error:  # protobuf, coremltools and macOS each raise classes of their own
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: is damaged or no CoreML model ({reason}); export it again") from error


def _existing(file: str) -> Path:
    return existing_file(file, "coreml", folder=Path(file).suffix.lower() == ".mlpackage")
