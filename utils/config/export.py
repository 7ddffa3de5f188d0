"""Settings of export.py."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.base import IMG_FLAGS, BaseConfig, option, switch
from utils.config.flag_types import fraction, positive_float, positive_int
from utils.config.legacy import EXPORT_FLAGS
from utils.core.errors import InputError


@dataclass(frozen=True)
class ExportConfig(BaseConfig):
    """Export a checkpoint to the formats of other runtimes."""

    old_flags = EXPORT_FLAGS
    data: str = option("data/coco128.yaml", "--data", help="data set YAML: images for --int8 and for the output check")
    weights: list[str] = option(["yolov5s.pt"], "--weights", nargs="+", type=str, help="checkpoints to export")
    imgsz: list[int] = option(
        [640, 640], *IMG_FLAGS, nargs="+", type=positive_int, help="image size in pixels: one side, or height and width"
    )
    batch_size: int = option(1, "--batch-size", type=positive_int, help="batch size of the exported graph")
    device: str = option("cpu", "--device", help="cpu or a CUDA index")
    half: bool = switch("--half", help="FP16 weights")
    int8: bool = switch("--int8", help="INT8 quantization, calibrated on the images of --data")
    per_tensor: bool = switch("--per-tensor", help="one INT8 scale per tensor instead of one per channel")
    inplace: bool = switch("--inplace", help="ignored; kept for compatibility")
    keras: bool = switch("--keras", help="build the SavedModel with Keras")
    optimize: bool = switch("--optimize", help="optimize TorchScript for mobile")
    dynamic: bool = switch("--dynamic", help="dynamic batch size, height and width")
    simplify: bool = switch("--simplify", help="simplify the ONNX graph with onnxslim")
    opset: int | None = option(None, "--opset", type=positive_int, help="ONNX opset (default: from the exporter)")
    verbose: bool = switch("--verbose", help="show converter logs, and tracebacks of failures")
    workspace: float = option(4, "--workspace", type=positive_float, help="TensorRT workspace size, GiB")
    cache: str = option("", "--cache", help="TensorRT timing cache file")
    nms: bool = switch("--nms", help="include NMS in the graph; output (B, max_det, 6)")
    agnostic_nms: bool = switch("--agnostic-nms", help="with --nms: class-agnostic NMS")
    max_det: int = option(100, "--max-det", type=positive_int, help="with --nms: maximum detections per image")
    topk_all: int = option(100, "--topk-all", type=positive_int, help="alias of --max-det")
    topk_per_class: int = option(
        100, "--topk-per-class", type=positive_int, help="ignored: --max-det limits all classes together"
    )
    iou_thres: float = option(0.45, "--iou-thres", type=fraction, help="with --nms: IoU threshold")
    conf_thres: float = option(0.25, "--conf-thres", type=fraction, help="with --nms: minimum confidence")
    include: list[str] = option(
        ["torchscript"], "--include", nargs="+", help="formats: torchscript onnx openvino engine coreml saved_model ..."
    )

    def check(self) -> ExportConfig:
        """Return the settings; InputError if one is invalid."""
        if len(self.imgsz) not in (1, 2):
            raise InputError(f"--imgsz {' '.join(map(str, self.imgsz))}: expected one side, or height and width")
        if self.half and self.int8:
            raise InputError("--half and --int8 cannot be combined; use one of them")
        if not self.include:
            raise InputError("--include: give at least one format")
        return self

    @property
    def size_hw(self) -> tuple[int, int]:
        """Requested (height, width) of the network input, pixels."""
        return self.imgsz[0], self.imgsz[-1]

    @property
    def nms_max_det(self) -> int:
        """Maximum detections per image of NMS in the graph."""
        return self.topk_all if "topk_all" in self.explicit and "max_det" not in self.explicit else self.max_det

    @property
    def calibration_data(self) -> str:
        """The data YAML if it was set explicitly, or else empty."""
        return str(self.data) if "data" in self.explicit else ""
