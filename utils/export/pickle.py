"""Export to full-module pickles, the checkpoint format of the original releases."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.export.base import ExportJob
from utils.tasks.networks import load_checkpoint
from utils.tasks.registry import find_task

SUFFIX = "_pickle.pt"


def export_pickle(job: ExportJob) -> Path:
    """Write `<stem>_pickle.pt`: the unfused network in FP16 without training state.

    The file refers to classes by import path (`models.yolo.DetectionModel`, ...), which tools for YOLOv5 provide.

    Raises:
        InputError: the original releases have no class for the network.
    """
    if not find_task(job.info.task).in_original:
        raise InputError(
            f"{job.weights}: the original releases do not support task {job.info.task!r}; export another format"
        )
    checkpoint = load_checkpoint(job.weights)
    network: Any = checkpoint.model.half().requires_grad_(False)
    network.names = dict(job.info.names)
    network.nc = len(job.info.names)
    network.hyp = dict(checkpoint.hyp)
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": network,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "opt": dict(checkpoint.opt),
        "git": {"remote": None, "branch": None, "commit": None},
        "date": datetime.now().astimezone().isoformat(),
    }
    target = job.get_path(SUFFIX)
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return target
