"""Public address of helpers for boxes, paths, checks and logging, with their known signatures.

Importing it makes `LOGGER` print to standard error, unless a command of this project has set it up, and lets
`torch.load` read the networks of YOLOv5 checkpoints in its default mode, which runs no code of the file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from utils import TryExcept, emojis, threaded
from utils.core.lazy import OUTSIDE, lazy_exports
from utils.general.boxes import (
    apply_classifier,
    bbox_iou,
    box_iou,
    clip_boxes,
    clip_coords,
    clip_segments,
    make_divisible,
    non_max_suppression,
    resample_segments,
    scale_boxes,
    scale_coords,
    scale_segments,
    segment2box,
    segments2boxes,
    wh_iou,
    xyn2xy,
    xywh2xyxy,
    xywhn2xyxy,
    xyxy2xywh,
    xyxy2xywhn,
)
from utils.general.checks import (
    AUTOINSTALL,
    FONT,
    check_amp,
    check_dataset,
    check_file,
    check_font,
    check_img_size,
    check_imshow,
    check_python,
    check_requirements,
    check_suffix,
    check_version,
    check_yaml,
)
from utils.general.files import (
    DATASETS_DIR,
    NUM_THREADS,
    ROOT,
    check_git_info,
    check_git_status,
    check_online,
    clean_str,
    date_modified,
    download,
    file_age,
    file_date,
    file_size,
    get_latest_run,
    git_describe,
    imread,
    imshow,
    imwrite,
    increment_path,
    unzip_file,
    url2file,
    user_config_dir,
    yaml_load,
    yaml_save,
)
from utils.general.logs import (
    LOGGER,
    LOGGING_NAME,
    RANK,
    VERBOSE,
    Profile,
    Timeout,
    WorkingDirectory,
    colorstr,
    is_ascii,
    is_chinese,
    is_colab,
    is_docker,
    is_kaggle,
    is_notebook,
    is_pip,
    is_writeable,
    isdocker,
    methods,
    prepare_import,
    print_args,
    set_logging,
)
from utils.general.training import (
    TQDM_BAR_FORMAT,
    allow_networks,
    coco80_to_coco91_class,
    get_default_args,
    init_seeds,
    intersect_dicts,
    labels_to_class_weights,
    labels_to_image_weights,
    one_cycle,
    print_mutation,
    strip_optimizer,
)

__all__ = [
    "AUTOINSTALL", "CONFIG_DIR", "DATASETS_DIR", "FILE", "FONT", "LOGGER", "LOGGING_NAME", "NCOLS", "NUM_THREADS",
    "RANK", "ROOT", "TQDM_BAR_FORMAT", "VERBOSE", "Profile", "Timeout", "TryExcept", "WorkingDirectory",
    "apply_classifier", "bbox_iou", "box_iou", "check_amp", "check_dataset", "check_file", "check_font",
    "check_git_info", "check_git_status", "check_img_size", "check_imshow", "check_online", "check_python",
    "check_requirements", "check_suffix", "check_version", "check_yaml", "clean_str", "clip_boxes", "clip_coords",
    "clip_segments", "coco80_to_coco91_class", "colorstr", "cv2", "date_modified", "download", "emojis", "file_age",
    "file_date", "file_size", "get_default_args", "get_latest_run", "git_describe", "imread", "imshow", "imwrite",
    "increment_path", "init_seeds", "intersect_dicts", "is_ascii", "is_chinese", "is_colab", "is_docker", "is_kaggle",
    "is_notebook", "is_pip", "is_writeable", "isdocker", "labels_to_class_weights", "labels_to_image_weights",
    "make_divisible", "methods", "non_max_suppression", "one_cycle", "print_args", "print_mutation",
    "resample_segments", "save_one_box", "scale_boxes", "scale_coords", "scale_segments", "segment2box",
    "segments2boxes", "set_logging", "strip_optimizer", "threaded", "try_except", "unzip_file", "url2file",
    "user_config_dir", "wh_iou", "xyn2xy", "xywh2xyxy", "xywhn2xyxy", "xyxy2xywh", "xyxy2xywhn", "yaml_load",
    "yaml_save",
]  # fmt: skip
FILE = Path(__file__).resolve()
NCOLS = shutil.get_terminal_size().columns  # of progress bars in 6.1
MODULES = (  # which `import *` gave, too
    *("Pool", "ThreadPool", "ZipFile", "contextlib", "glob", "inspect", "json", "logging", "math", "np", "os", "pd"),
    *("platform", "random", "re", "repeat", "shutil", "signal", "subprocess", "sys", "time", "torch", "torchvision"),
    *("urllib", "yaml"),
)
__all__ += ["Path", *MODULES]


def try_except(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that prints the exceptions of a function and continues (6.0); `TryExcept` later."""
    return TryExcept()(func)


LAZY_EXPORTS = {  # which were defined here before release 7.0
    "save_one_box": "utils.plots.annotator",
    **dict.fromkeys(("output_to_target", "plot_images", "plot_labels", "plot_one_box", "plot_results"), "utils.plots"),
    **dict.fromkeys(("ap_per_class", "compute_ap", "fitness"), "utils.metrics.classic"),
    **dict.fromkeys(("check_anchor_order", "check_anchors", "kmean_anchors"), "utils.autoanchor"),
    "gsutil_getsize": "utils.downloads",
    **dict.fromkeys(("init_torch_seeds", "torch_distributed_zero_first"), "utils.torch_utils"),
    **{name: OUTSIDE[name] for name in MODULES},
}
_get_lazy = lazy_exports(__name__, LAZY_EXPORTS)


def __getattr__(name: str) -> Any:
    return user_config_dir() if name == "CONFIG_DIR" else _get_lazy(name)  # creates the folder, so not on import


prepare_import()
allow_networks()
