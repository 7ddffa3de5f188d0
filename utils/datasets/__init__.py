"""Data sets: index, augmentation, loaders and inference sources.

Names that programs for YOLOv5 up to 6.1 import from here come from `utils.dataloaders` and `utils.augmentations`.
"""

from __future__ import annotations

from typing import Any

from utils.core.lazy import OUTSIDE, import_project_module, lazy_exports

FORMATS = {"img_formats": "IMG_FORMATS", "vid_formats": "VID_FORMATS"}  # lists of these names, up to 5.0
LAZY_EXPORTS = {
    **dict.fromkeys(
        (
            *("HELP_URL", "IMG_FORMATS", "NUM_THREADS", "VID_FORMATS", "DataLoader", "Dataset", "ExifTags"),
            *("HUBDatasetStats", "Image", "InfiniteDataLoader", "seed_worker", "tqdm"),
            *("LoadImagesAndLabels", "LoadScreenshots", "Path", "Thread", "_RepeatSampler", "autosplit"),
            *("create_folder", "cv2", "dataset_stats", "exif_size", "exif_transpose", "extract_boxes"),
            *("flatten_recursive", "get_hash", "glob", "hashlib", "img2label_paths", "math", "np", "os", "random"),
            *("shutil", "time", "torch", "verify_image_label"),
            *("clean_str", "resample_segments", "segment2box", "segments2boxes", "xyn2xy", "xywh2xyxy", "xywhn2xyxy"),
            *("xyxy2xywh", "xyxy2xywhn"),
        ),
        "utils.dataloaders",
    ),
    **dict.fromkeys(
        ("LoadImages", "LoadStreams", "LoadWebcam", "create_dataloader", "load_image", "load_mosaic", "load_mosaic9"),
        "utils.dataloaders.legacy",
    ),
    **dict.fromkeys(
        (
            *("Albumentations", "augment_hsv", "box_candidates", "copy_paste", "cutout", "hist_equalize"),
            *("letterbox", "mixup", "random_perspective", "replicate"),
        ),
        "utils.augmentations",
    ),
    **dict.fromkeys(("LOGGER", "check_dataset", "check_file", "check_requirements"), "utils.general"),
    "torch_distributed_zero_first": "utils.torch_utils",
    **{name: OUTSIDE[name] for name in ("F", "Pool", "ThreadPool", "json", "logging", "repeat", "yaml")},
}
__all__ = [*LAZY_EXPORTS, *FORMATS]

_get_export = lazy_exports(__name__, LAZY_EXPORTS)


def __getattr__(name: str) -> Any:
    """A name of another module, see `LAZY_EXPORTS`."""
    if name in FORMATS:
        return list(getattr(import_project_module("utils.dataloaders"), FORMATS[name]))
    return _get_export(name)
