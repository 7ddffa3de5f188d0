"""Settings of detect.py."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.base import IMG_FLAGS, THREADS_HELP, TRUST_HELP, BaseConfig, format_flags, option, switch
from utils.config.flag_types import (
    fraction,
    line_points,
    not_negative_float,
    not_negative_int,
    positive_int,
    zone_points,
)
from utils.config.legacy import DETECT_FLAGS
from utils.config.tiles import (
    check_tile_flags,
    tile_full_switch,
    tile_merge_option,
    tile_option,
    tile_overlap_option,
)
from utils.core.errors import InputError


@dataclass(frozen=True)
class DetectConfig(BaseConfig):
    """Run a model on images, videos and streams."""

    old_flags = DETECT_FLAGS
    weights: list[str] = option(
        ["yolov5s.pt"],
        "--weights",
        nargs="+",
        type=str,
        help="model file or Triton URL; several .pt files form an ensemble",
    )
    source: str = option(
        "data/images",
        "--source",
        type=str,
        help="image, video, folder, glob, list, URL, webcam number, screen, or - (see docs/sources.md)",
    )
    data: str = option("data/coco128.yaml", "--data", help="data set YAML, for class names if the model file has none")
    imgsz: list[int] = option(
        [640], *IMG_FLAGS, nargs="+", type=positive_int, help="image size in pixels: one side, or height and width"
    )
    conf_thres: float = option(0.25, "--conf-thres", type=fraction, help="minimum confidence")
    iou_thres: float = option(0.45, "--iou-thres", type=fraction, help="IoU threshold of NMS")
    max_det: int = option(1000, "--max-det", type=positive_int, help="maximum detections per image")
    device: str = option("", "--device", help="cpu, mps or a CUDA index; empty: CUDA if available")
    view_img: bool = switch("--view-img", help="show results in windows; q ends the run")
    save_txt: bool = switch("--save-txt", help="save detections to labels/*.txt")
    save_format: int = option(
        0, "--save-format", type=int, choices=(0, 1), help="box format of --save-txt: 0 center and size, 1 corners"
    )
    save_csv: bool = switch("--save-csv", help="save detections to predictions.csv")
    save_conf: bool = switch("--save-conf", help="add the confidence to each line of --save-txt")
    save_crop: bool = switch("--save-crop", help="save a crop of each object to crops/CLASS/")
    save_as_video: bool = switch("--save-as-video", help="also save the annotated images as one video, all_images.mp4")
    submit: bool = switch(
        "--submit", help="save semantic masks with the label IDs of the data set to results/*_pred.png"
    )
    nosave: bool = switch("--nosave", help="do not save annotated images and videos")
    classes: list[int] | None = option(
        None, "--classes", nargs="+", type=int, help="keep only these classes, such as --classes 0 2"
    )
    agnostic_nms: bool = switch("--agnostic-nms", help="class-agnostic NMS")
    augment: bool = switch("--augment", help="test-time augmentation")
    visualize: bool = switch("--visualize", help="save the feature maps of each layer")
    update: bool = switch("--update", help="strip the training state from the checkpoints afterwards")
    project: str = option("runs/detect", "--project", help="parent folder of runs")
    name: str = option("exp", "--name", help="name of the run folder")
    exist_ok: bool = switch("--exist-ok", help="use an existing run folder")
    line_thickness: int | None = option(
        None, "--line-thickness", type=positive_int, help="line width of boxes in pixels (default: from the image size)"
    )
    hide_labels: bool = switch("--hide-labels", help="draw boxes without labels")
    retina_masks: bool = switch("--retina-masks", help="masks at the resolution of the image")
    hide_conf: bool = switch("--hide-conf", help="draw labels without confidence")
    half: bool = switch("--half", help="half precision: FP16 on CUDA, BF16 on CPUs that are faster with it")
    dnn: bool = switch("--dnn", help="run ONNX files with OpenCV DNN instead of onnxruntime")
    trust: bool = switch("--trust", help=TRUST_HELP)
    threads: int | None = option(None, "--threads", type=positive_int, help=THREADS_HELP)
    track: str | None = option(
        None,
        "--track",
        nargs="?",
        const="bytetrack",
        choices=("bytetrack", "ocsort"),
        help="track objects over the frames; without a value bytetrack (see docs/tracking.md)",
    )
    track_trail: int = option(0, "--track-trail", type=not_negative_int, help="draw the last N positions of each track")
    save_mot: bool = switch("--save-mot", help="save tracks in the MOT format to mot/*.txt")
    count_line: str | None = option(
        None, "--count-line", type=line_points, metavar="X1,Y1,X2,Y2", help="count tracks that cross a line"
    )
    count_zone: str | None = option(
        None, "--count-zone", type=zone_points, metavar="X1,Y1,...", help="count tracks that enter a polygon"
    )
    tile: int | None = tile_option()
    tile_overlap: float = tile_overlap_option()
    tile_full: bool = tile_full_switch()
    tile_merge: str = tile_merge_option()
    vid_stride: int = option(1, "--vid-stride", type=positive_int, help="use every Nth frame of videos and streams")
    watch: bool = switch("--watch", help="wait for new files in a folder or glob until Ctrl-C")
    stream_timeout: float = option(
        60.0,
        "--stream-timeout",
        type=not_negative_float,
        help="end after so many seconds without a frame from any stream; 0: never",
    )

    def check(self) -> DetectConfig:
        """Return the settings; InputError if one is invalid."""
        if len(self.imgsz) not in (1, 2):
            raise InputError(f"--imgsz {' '.join(map(str, self.imgsz))}: expected one side, or height and width")
        if self.visualize and len(self.weights) > 1:
            raise InputError("--visualize supports one model; give one file with --weights")
        if self.visualize and self.augment:
            raise InputError("--visualize and --augment cannot be combined; use one of them")
        if self.visualize and self.tile is not None:
            raise InputError("--visualize and --tile cannot be combined; use one of them")
        check_tile_flags(self.tile, self.explicit)
        details = ("track_trail", "save_mot", "count_line", "count_zone")
        if self.track is None and (given := [name for name in details if name in self.explicit]):
            flag = format_flags(given[:1])
            raise InputError(f"{flag} has no effect without --track; add --track, or leave {flag} out")
        return self

    @property
    def size_hw(self) -> tuple[int, int]:
        """Requested (height, width) of the network input, pixels."""
        return self.imgsz[0], self.imgsz[-1]
