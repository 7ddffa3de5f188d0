"""Real images for exports: for the comparison with PyTorch and for the calibration of INT8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.config.base import ROOT
from utils.export.base import ExportJob
from utils.imaging.read import IMAGE_SUFFIXES, ImageError, read_image
from utils.tasks.registry import find_task

SHIPPED = ROOT / "data" / "images"
COMPARED = 4  # images of the user's data; of the shipped ones all are taken
CALIBRATED = 300


def image_files(job: ExportJob, split: str, count: int) -> list[str]:
    """Up to `count` images spread over a split of the job's data, or the shipped ones where none is named.

    Raises:
        InputError: the data cannot be used.
    """
    data, kind = job.options.data, find_task(job.info.task)
    if not data:
        return sorted(str(p) for p in SHIPPED.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    paths = kind.list_images(kind.load_data(data), split).paths
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [str(paths[i]) for i in places]


def load_image(job: ExportJob, file: str | Path, size_hw: tuple[int, int]) -> Tensor:
    """(1, C, H, W) floats, RGB, fitted into the size and normalized as the job's task does it."""
    traits, channels = find_task(job.info.task).traits, job.info.channels
    frame, _ = traits.fit(read_image(file, channels=channels), size_hw)
    frame = frame[..., ::-1] if channels == 3 else frame
    image = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].float() / 255
    return image if traits.pixels is None else traits.pixels.normalize_(image)


def load_batch(job: ExportJob, size_hw: tuple[int, int]) -> Tensor:
    """The images that an export is compared on, (B, C, H, W)."""
    files = image_files(job, "val", COMPARED)
    channels = job.info.channels
    if channels != 3 and not job.options.data:
        rng = np.random.default_rng(0)  # the shipped images have three channels
        return torch.from_numpy(rng.random((2, channels, *size_hw), np.float32))
    return torch.cat([load_image(job, file, size_hw) for file in files])


def calibration_images(job: ExportJob, count: int = CALIBRATED) -> Iterator[Tensor]:
    """Training images of `--data`, one at a time, (1, C, H, W).

    Raises:
        InputError: no data is named, or it cannot be used.
    """
    for file in image_files(job, "train", count):
        try:
            yield load_image(job, file, job.options.imgsz)
        except ImageError:  # was readable when the set was verified; the others do
            continue
