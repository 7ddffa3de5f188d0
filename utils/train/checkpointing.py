"""The content of last.pt: everything that an exact resume needs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import torch

from utils.train.amp import format_amp

if TYPE_CHECKING:
    from utils.train.trainer import Trainer


def collect_state(trainer: Trainer, *, epoch: int, metrics: dict[str, float], position: Any) -> dict[str, Any]:
    """The keys of models/checkpoint.py.

    Args:
        epoch: the last finished one, -1 before the first.
        position: progress within the next epoch, None between epochs.
    """
    task = trainer.task
    weights = trainer.image_weights
    return {
        "task": task.name,
        "yaml": trainer.model.yaml,
        "names": dict(task.class_names),
        "semantic": None if task.semantic is None else task.semantic.to_dict(),
        "model": trainer.model.state_dict(),
        "ema": trainer.ema.model.state_dict(),
        "ema_updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "amp": format_amp(trainer.amp),
        "epoch": epoch,
        "best_fitness": trainer.stopping.best_fitness,
        "early_stop": trainer.stopping.state_dict(),
        "task_state": task.state_dict(),
        "image_weights": None if weights is None else torch.from_numpy(weights),
        "metrics": metrics,
        "hyp": task.hyp.to_dict(),
        "opt": trainer.config.to_dict(),
        "date": datetime.now().isoformat(timespec="seconds"),
        "position": position,
    }


def restore_state(trainer: Trainer, state: dict[str, Any]) -> None:
    """Continue from the content of a last.pt."""
    trainer.model.load_state_dict(state["model"])
    trainer.ema.model.load_state_dict(state["ema"])
    trainer.ema.updates = int(state["ema_updates"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.stopping.load_state_dict(state["early_stop"])
    trainer.task.load_state_dict(state["task_state"])
    if state["image_weights"] is not None:
        trainer.image_weights = state["image_weights"].numpy()
    trainer.position = state.get("position")
    trainer.start_epoch = int(state["epoch"]) + 1
