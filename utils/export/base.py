"""Export jobs: the network as a traceable module, and the settings of the export."""

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


class UnsupportedOptionError(InputError):
    """The format does not support a setting; others may."""


@dataclass(frozen=True)
class ExportOptions:
    """Settings of one export, named after the flags of export.py.

    Attributes:
        imgsz: (height, width) of the network input, multiples of the stride.
        batch: batch size of a graph without dynamic axes.
        data: data YAML for calibration and comparison; empty for none.
        conf_thres, iou_thres, max_det, agnostic: NMS in the graph, and the comparison of detections.
        opset: ONNX opset; None for the exporter's default.
        keras: write the SavedModel with Keras.
        workspace: memory limit of TensorRT in GiB.
        cache: timing cache of TensorRT; empty for none.
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
    """One checkpoint to be exported.

    Attributes:
        weights: the checkpoint; exports are named after it and written beside it.
        network: fused, in evaluation mode, FP32 on the export device, with normalized boxes or NMS as format and
            options require.
        info: metadata of the file.
        options: settings.
    """

    weights: Path
    network: ExportNetwork
    info: ModelInfo
    options: ExportOptions

    @property
    def example(self) -> Tensor:
        """(batch, C, H, W) FP32 zeros on the export device."""
        options = self.options
        return torch.zeros(options.batch, self.info.channels, *options.imgsz, device=options.device)

    def get_path(self, suffix: str) -> Path:
        """Path of the export: `model.pt` with "_openvino_model" -> `model_openvino_model`."""
        return self.weights.with_name(self.weights.stem + suffix)

    def with_options(self, **options: Any) -> ExportJob:
        """The same job with other options, for a format that is converted from another one."""
        return replace(self, options=replace(self.options, **options))

    def build_half_network(self) -> ExportNetwork:
        """Copy the network with FP16 weights and input; boxes are decoded in FP32, so its outputs are FP32."""
        network = copy.deepcopy(self.network).half()
        for half, full in zip(network.modules(), self.network.modules(), strict=True):
            if isinstance(half, Detect) and isinstance(full, Detect):
                half.anchors, half.stride = full.anchors, full.stride
        return network


class ExportNetwork(nn.Module):
    """A network for tracing exporters: images in, tensors out, nothing cached between image sizes.

    Args:
        model: fused network; its heads are switched to export mode.
        normalized: divide boxes, if there are any, by width and height of the input.
        nms: optional module from decoded rows (B, N, 5 + num_classes) to detections (B, max_det, 6).
        dynamic: support any image size.

    Shape:
        (B, C, H, W) in [0, 1] -> the outputs of the head, a tensor or a tuple; or (B, max_det, 6) with NMS.
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
