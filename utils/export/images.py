"""Images for the comparison with PyTorch and for INT8 calibration."""

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

SAMPLE_IMAGES = ROOT / "data" / "images"
MAX_COMPARISON_IMAGES = 4  # of --data
MAX_CALIBRATION_IMAGES = 300


def list_image_files(job: ExportJob, split: str, count: int) -> list[str]:
    """List up to `count` images spread over a split of the job's data, or the sample images without data.

    Raises:
        InputError: the data cannot be used.
    """
    data, task = job.options.data, find_task(job.info.task)
    if not data:
        return sorted(str(p) for p in SAMPLE_IMAGES.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    paths = task.load_index(task.load_data(data), split).paths
    indices = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [str(paths[i]) for i in indices]


def load_image(job: ExportJob, file: str | Path, size_hw: tuple[int, int]) -> Tensor:
    """Load an image as network input (1, C, H, W), RGB float32, letterboxed and normalized as the task requires."""
    task, channels = find_task(job.info.task), job.info.channels
    frame, _ = task.fit(read_image(file, channels=channels), size_hw)
    frame = frame[..., ::-1] if channels == 3 else frame
    image = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].float() / 255
    return image if task.pixels is None else task.pixels.normalize_(image)


def load_comparison_images(job: ExportJob, size_hw: tuple[int, int]) -> Tensor:
    """Load the images for the comparison with PyTorch, (B, C, H, W)."""
    files = list_image_files(job, "val", MAX_COMPARISON_IMAGES)
    channels = job.info.channels
    if channels != 3 and not job.options.data:
        rng = np.random.default_rng(0)  # the sample images have three channels
        return torch.from_numpy(rng.random((2, channels, *size_hw), np.float32))
    return torch.cat([load_image(job, file, size_hw) for file in files])


def load_calibration_images(job: ExportJob, count: int = MAX_CALIBRATION_IMAGES) -> Iterator[Tensor]:
    """Load training images of `--data`, one at a time, (1, C, H, W).

    Raises:
        InputError: the data cannot be used.
    """
    for file in list_image_files(job, "train", count):
        try:
            yield load_image(job, file, job.options.imgsz)
        except ImageError:
            continue
