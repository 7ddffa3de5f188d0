"""What every exporter gets: the network as a plain function of images, and the settings of the export."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.yolo import Detect
from utils.backends.info import ModelInfo
from utils.core.errors import InputError


class NotOfferedError(InputError):
    """A format has not what the settings ask for; others may have it."""


@dataclass(frozen=True)
class ExportOptions:
    """Settings of one export, as the flags of export.py.

    Attributes:
        imgsz: (height, width) of the network input, multiples of the stride.
        batch: images per run of a graph that is not dynamic.
        data: data YAML for calibration; empty for none.
        conf_thres, iou_thres, max_det, agnostic: of the NMS inside the graph.
        opset: of ONNX; None takes the exporter's own.
        keras: write the SavedModel by Keras.
        workspace: GiB that TensorRT may use.
        cache: file with TensorRT's timings of earlier builds; empty for none.
    """

    imgsz: tuple[int, int] = (640, 640)
    batch: int = 1
    device: torch.device = torch.device("cpu")
    data: str = ""
    half: bool = False
    int8: bool = False
    per_tensor: bool = False
    dynamic: bool = False
    simplify: bool = False
    optimize: bool = False
    opset: int | None = None
    nms: bool = False
    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 100
    agnostic: bool = False
    keras: bool = False
    workspace: float = 4
    cache: str = ""
    verbose: bool = False


@dataclass(frozen=True)
class ExportJob:
    """One checkpoint on its way to one or several formats.

    Attributes:
        weights: the checkpoint; exports are named after it and lie beside it.
        network: fused, evaluation mode, FP32 on the export device, head set to export, and made for the format: boxes
            normalized where its row in the table says so, NMS inside where `options.nms` wants it. (B, C, H, W) in
            [0, 1] -> a tensor, or a tuple (boxes, prototypes) for segmentation.
        info: what the file is to say of itself; agrees with `network`.
        options: settings.
    """

    weights: Path
    network: ExportNetwork
    info: ModelInfo
    options: ExportOptions

    @property
    def example(self) -> Tensor:
        """(batch, C, H, W) FP32 zeros on the export's device."""
        options = self.options
        return torch.zeros(options.batch, self.info.channels, *options.imgsz, device=options.device)

    def target(self, ending: str) -> Path:
        """Where the export goes: the checkpoint's name with another ending, `model.pt` -> `model_openvino_model`."""
        return self.weights.with_name(self.weights.stem + ending)

    def changed(self, **options: Any) -> ExportJob:
        """The same checkpoint with other settings, as for a format that is made from another one."""
        return replace(self, options=replace(self.options, **options))

    def halved(self) -> ExportNetwork:
        """A copy of the network that takes FP16 images; it decodes in FP32, so its outputs are FP32."""
        network = copy.deepcopy(self.network).half()
        for half, full in zip(network.modules(), self.network.modules(), strict=True):
            if isinstance(half, Detect) and isinstance(full, Detect):
                half.anchors, half.stride = full.anchors, full.stride
        return network


class ExportNetwork(nn.Module):
    """A network that tracing exporters can follow: images in, tensors out, nothing cached between sizes.

    Args:
        model: fused network in evaluation mode; its heads are switched to export.
        normalized: give boxes, if there are any, over width and height of the input.
        nms: what turns decoded rows (B, N, 5 + num_classes) into detections (B, max_det, 6), if that is wanted.

    Shape:
        (B, C, H, W) in [0, 1] -> (B, N, 5 + num_classes); and prototypes where the head has them; or (B, max_det, 6).
    """

    def __init__(
        self, model: nn.Module, *, normalized: bool = False, nms: nn.Module | None = None, dynamic: bool = False
    ) -> None:
        super().__init__()
        self.model, self.nms = model, nms
        self.eval()
        heads = [module for module in model.modules() if isinstance(module, Detect)]
        self.normalized = normalized and bool(heads)
        for head in heads:
            head.export, head.dynamic, head.inplace = True, dynamic, False

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.model(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if self.nms is not None:
            return self.nms(outputs[0])
        if self.normalized:
            height, width = images.shape[2:]
            scale = outputs[0].new_tensor([1 / width, 1 / height, 1 / width, 1 / height])
            outputs = (torch.cat((outputs[0][..., :4] * scale, outputs[0][..., 4:]), dim=-1), *outputs[1:])
        return outputs[0] if len(outputs) == 1 else outputs
