"""Settings of detect.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from utils.config.base import IMG_FLAGS, BaseConfig, option, switch
from utils.config.flag_types import not_negative_float, positive_int, share
from utils.core.errors import InputError


@dataclass(frozen=True)
class DetectConfig(BaseConfig):
    """Draw the objects that a model finds in images, videos and streams."""

    weights: list[str] = option(
        ["yolov5s.pt"], "--weights", nargs="+", help="model file or Triton URL; several .pt files form an ensemble"
    )
    source: str = option(
        "data/images",
        "--source",
        help="image, video, folder, glob, list, URL, webcam number, screen, or - (see docs/sources.md)",
    )
    data: str = option("data/coco128.yaml", "--data", help="data set YAML, for class names of files without any")
    imgsz: list[int] = option(
        [640], *IMG_FLAGS, nargs="+", type=positive_int, help="network input in pixels: side, or height and width"
    )
    conf_thres: float = option(0.25, "--conf-thres", type=share, help="lowest score shown")
    iou_thres: float = option(0.45, "--iou-thres", type=share, help="overlap limit of non-maximum suppression")
    max_det: int = option(1000, "--max-det", type=positive_int, help="detections kept per image")
    device: str = option("", "--device", help="cpu, mps or a CUDA index; empty takes the best there is")
    view_img: bool = switch("--view-img", help="show the results in windows; q ends the run")
    save_txt: bool = switch("--save-txt", help="write detections to labels/*.txt")
    save_format: int = option(
        0, "--save-format", type=int, choices=(0, 1), help="boxes of --save-txt: 0 center and size, 1 corners"
    )
    save_csv: bool = switch("--save-csv", help="write detections to predictions.csv")
    save_conf: bool = switch("--save-conf", help="append the score to each line of --save-txt")
    save_crop: bool = switch("--save-crop", help="save a crop of each object to crops/CLASS/")
    save_as_video: bool = switch(
        "--save-as-video", help="show the annotated images one after another in all_images.mp4 too"
    )
    submit: bool = switch(
        "--submit", help="write semantic masks with the data set's own label numbers to results/*_pred.png"
    )
    nosave: bool = switch("--nosave", help="save no annotated images and videos")
    classes: list[int] | None = option(
        None, "--classes", nargs="+", type=int, help="keep these class numbers, as in --classes 0 2"
    )
    agnostic_nms: bool = switch("--agnostic-nms", help="boxes of different classes suppress each other")
    augment: bool = switch("--augment", help="test-time augmentation")
    visualize: bool = switch("--visualize", help="save feature maps of every layer")
    update: bool = switch("--update", help="afterwards strip the checkpoints of their training state")
    project: str = option("runs/detect", "--project", help="folder of runs")
    name: str = option("exp", "--name", help="run folder")
    exist_ok: bool = switch("--exist-ok", help="write into an existing run folder")
    line_thickness: int | None = option(
        None, "--line-thickness", type=positive_int, help="width of box lines in pixels (default: suits the image)"
    )
    hide_labels: bool = switch("--hide-labels", help="draw boxes without text")
    retina_masks: bool = switch("--retina-masks", help="masks as fine as the image, not as the network input")
    hide_conf: bool = switch("--hide-conf", help="leave the score out of the text")
    half: bool = switch(
        "--half", help="half precision: FP16 on CUDA, BF16 on a CPU faster in it, else FP32 with a warning"
    )
    dnn: bool = switch("--dnn", help="run ONNX files by OpenCV instead of onnxruntime")
    vid_stride: int = option(1, "--vid-stride", type=positive_int, help="take every Nth frame of a video or stream")
    watch: bool = switch("--watch", help="go on with new files of a folder or glob until Ctrl-C")
    stream_timeout: float = option(
        60.0,
        "--stream-timeout",
        type=not_negative_float,
        help="end after so many seconds without a frame of any stream; 0: never",
    )

    def check(self) -> DetectConfig:
        """The same settings with single values as lists; InputError for one that cannot be used."""
        weights = [str(self.weights)] if isinstance(self.weights, str | Path) else [str(w) for w in self.weights]
        imgsz = [self.imgsz] if isinstance(self.imgsz, int) else list(self.imgsz)
        classes = [self.classes] if isinstance(self.classes, int) else self.classes
        if len(imgsz) not in (1, 2):
            raise InputError(f"--imgsz {' '.join(map(str, imgsz))}: expected a side, or height and width")
        if self.visualize and len(weights) > 1:
            raise InputError("--visualize shows the layers of one model; name one file with --weights")
        if self.visualize and self.augment:
            raise InputError("--visualize shows the layers of one pass, --augment makes three: give one of the two")
        return replace(self, weights=weights, imgsz=imgsz, classes=classes, source=str(self.source))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Wanted height and width of the network input, pixels."""
        return self.imgsz[0], self.imgsz[-1]
