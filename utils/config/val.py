"""Settings of val.py."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.base import IMG_FLAGS, SEG_IMGSZ_HELP, THREADS_HELP, TRUST_HELP, BaseConfig, option, switch
from utils.config.flag_types import fraction, not_negative_int, positive_int
from utils.config.legacy import VAL_FLAGS
from utils.config.tiles import tile_full_switch, tile_merge_option, tile_option, tile_overlap_option


@dataclass(frozen=True)
class ValConfig(BaseConfig):
    """Validate a model on a data set."""

    old_flags = VAL_FLAGS
    data: str = option("data/coco128.yaml", "--data", help="data set YAML")
    weights: list[str] = option(["yolov5s.pt"], "--weights", nargs="+", help="model file; several form an ensemble")
    batch_size: int = option(32, "--batch-size", type=positive_int, help="images per step")
    imgsz: int = option(640, *IMG_FLAGS, type=positive_int, help="image size in pixels (longer side)")
    conf_thres: float = option(0.001, "--conf-thres", type=fraction, help="minimum confidence")
    iou_thres: float = option(0.6, "--iou-thres", type=fraction, help="IoU threshold of NMS")
    seg_imgsz: int | None = option(None, "--seg-imgsz", type=positive_int, help=SEG_IMGSZ_HELP)
    max_det: int = option(300, "--max-det", type=positive_int, help="maximum detections per image")
    task: str = option(
        "val", "--task", choices=("train", "val", "test", "speed", "study"), help="split to validate, or a benchmark"
    )
    device: str = option("", "--device", help="cpu, mps or a CUDA index; empty: CUDA if available")
    workers: int = option(8, "--workers", type=not_negative_int, help="maximum number of loader processes")
    single_cls: bool = switch("--single-cls", help="validate all classes as one")
    augment: bool = switch("--augment", help="test-time augmentation")
    verbose: bool = switch("--verbose", help="show results per class and all messages about labels")
    save_txt: bool = switch("--save-txt", help="save detections to labels/*.txt")
    save_hybrid: bool = switch("--save-hybrid", help="save labels and detections together; implies --save-txt")
    save_conf: bool = switch("--save-conf", help="add the confidence to each line of --save-txt")
    save_json: bool = switch("--save-json", help="save COCO JSON and compute COCO metrics")
    coco: bool = switch("--coco", help="compute COCO metrics; implies --save-json")
    project: str = option("runs/val", "--project", help="parent folder of runs")
    name: str = option("exp", "--name", help="name of the run folder")
    exist_ok: bool = switch("--exist-ok", help="use an existing run folder")
    half: bool = switch("--half", help="FP16 inference")
    dnn: bool = switch("--dnn", help="run ONNX files with OpenCV DNN")
    trust: bool = switch("--trust", help=TRUST_HELP)
    threads: int | None = option(None, "--threads", type=positive_int, help=THREADS_HELP)
    tile: int | None = tile_option()
    tile_overlap: float = tile_overlap_option()
    tile_full: bool = tile_full_switch()
    tile_merge: str = tile_merge_option()
    noplots: bool = switch("--noplots", help="write no plots")
