"""Public address of the data loaders, for training and for inference."""

from __future__ import annotations

import glob
import hashlib
import math
import os
import random
import shutil
import time
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from utils.core.lazy import lazy_exports
from utils.core.ranks import LOCAL_RANK, RANK, WORLD_SIZE
from utils.dataloaders.detection import HELP_URL, NUM_THREADS, LoadImagesAndLabels
from utils.dataloaders.files import (
    autosplit,
    create_folder,
    exif_size,
    exif_transpose,
    extract_boxes,
    flatten_recursive,
    get_hash,
    img2label_paths,
    verify_image_label,
)
from utils.dataloaders.loaders import (
    PIN_MEMORY,
    InfiniteDataLoader,
    _RepeatSampler,
    create_dataloader,
    seed_worker,
)
from utils.dataloaders.sources import (
    IMG_FORMATS,
    VID_FORMATS,
    LoadImages,
    LoadScreenshots,
    LoadStreams,
    LoadWebcam,
)
from utils.dataloaders.statistics import HUBDatasetStats, dataset_stats

LAZY_EXPORTS = {  # names whose modules take long to import, or that are at home at another address
    **dict.fromkeys(("ClassificationDataset", "create_classification_dataloader"), "utils.dataloaders.classification"),
    **dict.fromkeys(
        (
            *("Albumentations", "augment_hsv", "box_candidates", "classify_albumentations", "classify_transforms"),
            *("copy_paste", "hist_equalize", "letterbox", "mixup", "random_perspective", "replicate"),
        ),
        "utils.augmentations",
    ),
    **dict.fromkeys(
        (
            *("LOGGER", "clean_str", "resample_segments", "segment2box", "segments2boxes", "xyn2xy", "xywh2xyxy"),
            *("xywhn2xyxy", "xyxy2xywh", "xyxy2xywhn"),
        ),
        "utils.general",
    ),
}

# Programs that import * use the modules that the original imports here, too.
__all__ = [
    "HELP_URL", "IMG_FORMATS", "LOCAL_RANK", "NUM_THREADS", "PIN_MEMORY", "RANK", "VID_FORMATS", "WORLD_SIZE",
    "DataLoader", "Dataset", "ExifTags", "HUBDatasetStats", "Image", "InfiniteDataLoader", "LoadImages",
    "LoadImagesAndLabels", "LoadScreenshots", "LoadStreams", "LoadWebcam", "Path", "Thread", "_RepeatSampler",
    "autosplit",
    "create_dataloader", "create_folder", "cv2", "dataset_stats", "exif_size", "exif_transpose", "extract_boxes",
    "flatten_recursive", "get_hash", "glob", "hashlib", "img2label_paths", "math", "np", "os", "random", "seed_worker",
    "shutil", "time", "torch", "tqdm", "verify_image_label",
]  # fmt: skip
__all__ += list(LAZY_EXPORTS)

__getattr__ = lazy_exports(__name__, LAZY_EXPORTS)
