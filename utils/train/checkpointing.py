"""The content of last.pt: everything that an exact resume needs."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.checkpoint import load_weights
from models.graph import format_reason
from utils.core.errors import InputError
from utils.losses.meter import LossMeter
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
    """Continue from the content of a last.pt; InputError if it does not fit the run."""
    load_weights(trainer.model, state["model"], trainer.last)
    load_weights(trainer.ema.model, state["ema"], trainer.last)
    try:
        _restore_optimizer(trainer.optimizer, state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
        trainer.stopping.load_state_dict(state["early_stop"])
        trainer.task.load_state_dict(state["task_state"])
        if trainer.image_weights is not None:
            trainer.image_weights = _check_image_weights(state["image_weights"].numpy(), trainer.image_weights)
        trainer.position = _check_position(trainer, state["position"])
    except Exception as error:  # damaged content may raise any
        reason = f"its training state does not fit the run ({format_reason(error)})"
        raise InputError(f"{trainer.last}: {reason}; start with --weights {trainer.last}") from error
    trainer.ema.updates = state["ema_updates"]
    trainer.start_epoch = state["epoch"] + 1


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, which does not check it; ValueError if a step would fail."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(state)
    for group, loaded in zip(groups, optimizer.param_groups, strict=True):
        for key, value in group.items():
            if key != "params" and not _is_similar(loaded[key], value):
                raise ValueError(f"{key} of a parameter group is {type(loaded[key]).__name__}")
        trained = [parameter for parameter in loaded["params"] if parameter.requires_grad]
        names = {frozenset(optimizer.state.get(parameter, ())) for parameter in trained}
        if not isinstance(optimizer, torch.optim.SGD):  # the others start a state that is missing
            names.discard(frozenset())
        if len(names) > 1:
            raise ValueError("parameters of a group with different states")
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            shape = torch.Size() if name == "step" else parameter.shape
            if not isinstance(value, torch.Tensor) or value.shape != shape:
                raise ValueError(f"{name} of a parameter is {type(value).__name__} of another shape")
            if name != "step":  # fused kernels expect the memory layout of the parameter
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _is_similar(value: Any, expected: Any) -> bool:
    """Whether two settings of an optimizer are of the same kind."""
    if isinstance(expected, bool) or expected is None:
        return type(value) is type(expected)
    if isinstance(expected, tuple):
        return isinstance(value, tuple) and len(value) == len(expected) and all(map(_is_similar, value, expected))
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_image_weights(weights: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Sampling weights, if there is one for every image."""
    if weights.shape != expected.shape or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise ValueError("image_weights are not those of the images")
    return weights.astype(expected.dtype)


def _check_position(trainer: Trainer, position: dict[str, Any] | None) -> dict[str, Any] | None:
    """Progress within an epoch, if the epoch has such a position."""
    if position is not None:
        if not 0 <= position["batches"] < len(trainer.loader):
            raise ValueError(f"{position['batches']} of {len(trainer.loader)} batches are done")
        meter = LossMeter(trainer.task.loss_names)
        meter.load_state(position["meter"])
        meter.read()
    return position
