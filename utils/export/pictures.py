"""Real pictures for exports: for the comparison with PyTorch and for the calibration of INT8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.config import ROOT
from utils.datasets.image_io import IMAGE_SUFFIXES, ImageError, read_image
from utils.datasets.labels import load_index
from utils.datasets.letterbox import letterbox
from utils.datasets.spec import load_spec
from utils.export.base import ExportJob

SHIPPED = ROOT / "data" / "images"
COMPARED = 4  # pictures of the user's data; of the shipped ones all are taken
CALIBRATED = 300


def picture_files(data: str, split: str, count: int) -> list[str]:
    """Up to `count` pictures spread over a split of a data YAML, or the shipped ones where none is named.

    Raises:
        InputError: the data cannot be used.
    """
    if not data:
        return sorted(str(p) for p in SHIPPED.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    paths = load_index(load_spec(data), split, require_labels=False).paths
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [str(paths[i]) for i in places]


def load_picture(file: str | Path, size_hw: tuple[int, int], channels: int) -> Tensor:
    """(1, C, H, W) floats in [0, 1], RGB, letterboxed."""
    frame, _ = letterbox(read_image(file, channels=channels), size_hw)
    frame = frame[..., ::-1] if channels == 3 else frame
    return torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].float() / 255


def load_batch(job: ExportJob, size_hw: tuple[int, int]) -> Tensor:
    """The pictures that an export is compared on, (B, C, H, W)."""
    files = picture_files(job.options.data, "val", COMPARED)
    channels = job.info.channels
    if channels != 3 and not job.options.data:
        rng = np.random.default_rng(0)  # the shipped pictures have three channels
        return torch.from_numpy(rng.random((2, channels, *size_hw), np.float32))
    return torch.cat([load_picture(file, size_hw, channels) for file in files])


def calibration_pictures(job: ExportJob, count: int = CALIBRATED) -> Iterator[Tensor]:
    """Training pictures of `--data`, one at a time, (1, C, H, W).

    Raises:
        InputError: no data is named, or it cannot be used.
    """
    for file in picture_files(job.options.data, "train", count):
        try:
            yield load_picture(file, job.options.imgsz, job.info.channels)
        except ImageError:  # was readable when the set was verified; the others do
            continue
