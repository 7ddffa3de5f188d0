"""Whole-module checkpoints: the network pickled as the original releases are, for tools that read those."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import load_checkpoint
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.export.base import ExportJob

ENDING = "_pickle.pt"


def export_pickle(job: ExportJob) -> Path:
    """Write `<stem>_pickle.pt`: the network in FP16 with its batch norms, no training state.

    The file names classes by address (`models.yolo.DetectionModel`, ...), which the reading tool fills with its own.

    Raises:
        InputError: of a network with semantic masks, for which those tools have no class.
    """
    if job.info.task in ("semantic", "joint"):
        raise InputError(f"{job.weights}: the original releases know no semantic masks; export another format")
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
    target = job.target(ENDING)
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return target
