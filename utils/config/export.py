"""Settings of export.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from utils.config.base import IMG_FLAGS, BaseConfig, option, switch
from utils.config.flag_types import positive_float, positive_int, share
from utils.core.errors import InputError


@dataclass(frozen=True)
class ExportConfig(BaseConfig):
    """Write a checkpoint in the formats of other runtimes."""

    data: str = option(
        "data/coco128.yaml", "--data", help="data set YAML: images for --int8 and for the comparison, if given"
    )
    weights: list[str] = option(["yolov5s.pt"], "--weights", nargs="+", help="checkpoints, exported one by one")
    imgsz: list[int] = option(
        [640, 640], *IMG_FLAGS, nargs="+", type=positive_int, help="network input in pixels: side, or height and width"
    )
    batch_size: int = option(1, "--batch-size", type=positive_int, help="images per run of a fixed graph")
    device: str = option("cpu", "--device", help="cpu or a CUDA index")
    half: bool = switch("--half", help="FP16 weights")
    int8: bool = switch("--int8", help="INT8, calibrated on the images of --data")
    per_tensor: bool = switch("--per-tensor", help="one INT8 scale per tensor instead of one per channel")
    inplace: bool = switch("--inplace", help="no effect: the decoding in an exported graph is never in place")
    keras: bool = switch("--keras", help="write the SavedModel by Keras")
    optimize: bool = switch("--optimize", help="TorchScript for mobile processors")
    dynamic: bool = switch("--dynamic", help="batch, height and width are free in the graph")
    simplify: bool = switch("--simplify", help="shorten the ONNX graph by onnxslim")
    opset: int | None = option(None, "--opset", type=positive_int, help="ONNX opset (default: that of the exporter)")
    verbose: bool = switch("--verbose", help="show the log of converters, and tracebacks of those that fail")
    workspace: float = option(4, "--workspace", type=positive_float, help="memory that TensorRT may use, GiB")
    cache: str = option("", "--cache", help="file of TensorRT's timings, kept from build to build")
    nms: bool = switch("--nms", help="non-maximum suppression inside the graph; output (B, max_det, 6)")
    agnostic_nms: bool = switch("--agnostic-nms", help="with --nms: boxes of different classes suppress each other")
    max_det: int = option(100, "--max-det", type=positive_int, help="with --nms: detections kept per image")
    topk_all: int = option(100, "--topk-all", type=positive_int, help="older name of --max-det")
    topk_per_class: int = option(
        100, "--topk-per-class", type=positive_int, help="no effect: --max-det limits all classes together"
    )
    iou_thres: float = option(0.45, "--iou-thres", type=share, help="with --nms: overlap limit")
    conf_thres: float = option(0.25, "--conf-thres", type=share, help="with --nms: lowest score kept")
    include: list[str] = option(
        ["torchscript"], "--include", nargs="+", help="formats: torchscript onnx openvino engine coreml saved_model ..."
    )

    def check(self) -> ExportConfig:
        """The same settings with single values as lists; InputError for one that cannot be used."""
        weights = [str(self.weights)] if isinstance(self.weights, str | Path) else [str(w) for w in self.weights]
        imgsz = [self.imgsz] if isinstance(self.imgsz, int) else list(self.imgsz)
        include = [self.include] if isinstance(self.include, str) else list(self.include)
        if len(imgsz) not in (1, 2):
            raise InputError(f"--imgsz {' '.join(map(str, imgsz))}: expected a side, or height and width")
        if self.half and self.int8:
            raise InputError("--half and --int8: give one of the two")
        if not include:
            raise InputError("--include: name at least one format")
        return replace(self, weights=weights, imgsz=imgsz, include=include)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Wanted height and width of the network input, pixels."""
        return self.imgsz[0], self.imgsz[-1]

    @property
    def most_detections(self) -> int:
        """Detections per image that NMS inside the graph keeps."""
        return self.topk_all if "topk_all" in self.given and "max_det" not in self.given else self.max_det

    @property
    def calibration_data(self) -> str:
        """The data YAML that was named; empty where none was."""
        return str(self.data) if "data" in self.given else ""
