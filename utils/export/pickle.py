"""Export to full-module pickles, the checkpoint format of the original releases."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from models.public_pickle import save_pickle
from utils.core.errors import InputError
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
    _check_task(job.weights, job.info.task)
    return pickle_checkpoint(job.weights)


def _check_task(weights: Path, task: str) -> None:
    """InputError if the original releases have no networks of a task."""
    if not find_task(task).in_original:
        raise InputError(f"{weights}: the original releases do not support task {task!r}; export another format")


def pickle_checkpoint(weights: Path) -> Path:
    """As `export_pickle`, from the file of a checkpoint."""
    checkpoint = load_checkpoint(weights)
    _check_task(weights, checkpoint.task)
    network: Any = checkpoint.model.half().requires_grad_(False)
    network.names = {int(index): str(name) for index, name in checkpoint.names.items()}
    network.nc = len(network.names)
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
    return save_pickle(weights.with_name(weights.stem + SUFFIX), content)
