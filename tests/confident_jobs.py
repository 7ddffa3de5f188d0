"""Export jobs whose networks detect dozens of objects in every image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_jobs import build_tiny_job

from models.yolo import Detect, Segment
from utils.export.base import ExportJob


def build_confident_job(folder: Path, **options: Any) -> ExportJob:
    """Build a job as `build_tiny_job` with scores from 0 to 1.

    Args:
        options: as of `build_tiny_job`; `conf_thres` defaults to 0.25.
    """
    job = build_tiny_job(folder, **{"conf_thres": 0.25, **options})
    randomize_weights_(job.network.model)
    return job


def randomize_weights_(model: Any) -> None:
    """Draw random weights whose outputs depend on the image and have some high scores."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2.5 / fan_in) ** 0.5
    for head in (module for module in model.modules() if isinstance(module, Detect)):  # classifiers have none
        for conv in head.m:
            conv.weight.data *= 1.5
            conv.bias.data = torch.zeros_like(conv.bias)
            if isinstance(head, Segment):  # its objectness would be low
                conv.bias.data[4 :: head.no] = 2.0
