"""An export job whose network detects dozens of things in every image, for tests that compare detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_jobs import tiny_job

from models.yolo import Detect, Segment
from utils.export.base import ExportJob


def lively_job(folder: Path, **options: Any) -> ExportJob:
    """`tiny_job` with a head whose scores spread from 0 to 1; nothing is written.

    Args:
        options: as of `tiny_job`; the threshold of NMS is 0.25.
    """
    job = tiny_job(folder, **{"conf_thres": 0.25, **options})
    liven_(job.network.model)
    return job


def liven_(model: Any) -> None:
    """Draw weights whose outputs depend on the image and score high here and there."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2.5 / fan_in) ** 0.5
    for head in (module for module in model.modules() if isinstance(module, Detect)):  # classifiers have none
        for conv in head.m:
            conv.weight.data *= 1.5
            conv.bias.data = torch.zeros_like(conv.bias)
            if isinstance(head, Segment):  # in these weights its objectness is low
                conv.bias.data[4 :: head.no] = 2.0
