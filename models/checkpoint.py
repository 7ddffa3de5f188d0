"""Checkpoint files of our own format, which are plain data: write, strip, read the training state.

The format is a mapping of plain values (numbers, strings, None, lists, tuples, dicts, tensors) in a file of
`torch.save`; no class is pickled, so any `torch.load(weights_only=True)` reads it. Its keys:

| key                      | holds                                                                                 |
|--------------------------|---------------------------------------------------------------------------------------|
| format, version          | "openyolov5" and the number of this description                                       |
| task                     | name of the task, as "detect"; `utils.tasks.networks` rebuilds the network            |
| yaml                     | the graph as a model YAML, with `nc`, `ch` and the anchors it was built with; or the  |
|                          | name of a torchvision network                                                         |
| names                    | class number -> name; of a joint model those of the boxes                             |
| semantic                 | the classes of the semantic mask (`SemanticClasses.to_dict`), where the network gives one |
| model, ema               | state dicts; while training FP32, in the final file `model` alone, FP16, from the EMA |
| ema_updates, optimizer, scaler, epoch, best_fitness, early_stop, task_state, image_weights | state of a training |
|                          | run; `epoch` is the last finished one. Without `optimizer` a file cannot be resumed    |
| position                 | None between epochs, else `batches` of the next one that are done, and its `meter`     |
| metrics, hyp, opt, date  | what it reached, hyperparameters and settings of the run, when                        |

Strides follow from the graph and anchors are part of the state dict. A task that needs more adds keys of plain data.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.official import ADDRESSES
from models.safe_load import read_checkpoint
from models.yolo import BaseModel
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.logging import LOGGER

FORMAT = "openyolov5"
VERSION = 1
REQUIRED_KEYS = ("task", "yaml", "names", "model")
TRAINING_STATE: dict[str, Any] = {  # keys of a training run, with the values of a finished file
    "ema": None,
    "ema_updates": None,
    "optimizer": None,
    "scaler": None,
    "amp": None,
    "early_stop": None,
    "task_state": None,
    "image_weights": None,
    "position": None,
    "epoch": -1,
}
StateDict = Mapping[str, Tensor]


# -- reading ----------------------------------------------------------------------------------------------------------


def is_own(content: Any) -> bool:
    """Whether the content of a file is a checkpoint of our format."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def check_own(content: dict[str, Any], path: Path) -> None:
    """Raise InputError for a file of our format whose keys cannot be used."""
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(f"{path}: checkpoint format {version!r}, this version reads up to {VERSION}; update it")
    if missing := [key for key in (*REQUIRED_KEYS, "epoch") if key not in content]:
        raise InputError(f"{path}: damaged checkpoint, it has no {', '.join(missing)}; copy it again")
    for key in ("yaml", "names", "model"):
        if not isinstance(content[key], dict):
            shown = str(content[key])[:40]
            raise InputError(f"{path}: damaged checkpoint, {key}: {shown} is no mapping; copy it again")


def load_training_state(path: str | Path) -> dict[str, Any]:
    """The whole mapping of a checkpoint of ours that a training run can go on from, tensors on the CPU.

    Raises:
        InputError: as `load_checkpoint`, or the file has no training state.
    """
    path = Path(path)
    content = read_checkpoint(path, ADDRESSES)
    if not is_own(content):
        raise InputError(f"{path}: not written by this train.py, so it cannot be resumed; start with --weights {path}")
    check_own(content, path)
    if content.get("optimizer") is None:
        raise InputError(
            f"{path}: a final file without training state; resume weights/last.pt, or start with --weights {path}"
        )
    return content


# -- writing ----------------------------------------------------------------------------------------------------------


def save_checkpoint(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Write a checkpoint of our format; the file is whole or stays as it was.

    Args:
        payload: keys of the table above without format and version; task, yaml, names and model are required.

    Raises:
        InputError: the file cannot be written.
        TypeError: a value is not plain data; the message names its key.
    """
    if missing := [key for key in REQUIRED_KEYS if key not in payload]:
        raise ValueError(f"checkpoint without {', '.join(missing)}")
    content = {"format": FORMAT, "version": VERSION, **TRAINING_STATE, **payload}
    plain = {key: _plain(value, key) for key, value in content.items()}
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(plain, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as either
        old = "the old file is as it was, " if Path(path).exists() else ""
        full = isinstance(error, RuntimeError) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "name a place that can be written"
        raise InputError(f"{path}: cannot be written ({error}); {old}{remedy}") from error


def _plain(value: Any, place: str) -> Any:
    """The value as plain data on the CPU; TypeError where it is none."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_plain(key, place): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, f"{place}[{i}]") for i, item in enumerate(value))
    raise TypeError(f"checkpoint: {place} is {type(value).__name__}, not plain data")


def strip_checkpoint(src: str | Path, dst: str | Path | None = None) -> Path:
    """Write the small final file: the EMA's weights in FP16, no training state.

    Args:
        dst: where to; None replaces `src`. Files of the original YOLOv5 are left as they are, with a warning.

    Returns:
        The file written.
    """
    src = Path(src)
    content = read_checkpoint(src, ADDRESSES)
    if not is_own(content):
        LOGGER.warning(f"{src}: not stripped, it is no checkpoint of this project")
        return src
    check_own(content, src)
    weights = content.get("ema") or content["model"]
    target = src if dst is None else Path(dst)
    save_checkpoint(target, {**content, **TRAINING_STATE, "model": {k: _halved(k, v) for k, v in weights.items()}})
    return target


def _halved(key: str, value: Tensor) -> Tensor:
    """FP16 for what FP16 can hold; anchors stay exact."""
    if not value.is_floating_point() or key.endswith("anchors"):
        return value
    half = value.half()
    return half if torch.equal(half.isfinite(), value.isfinite()) else value


# -- using ------------------------------------------------------------------------------------------------------------


def transfer_weights(model: nn.Module, state_dict: StateDict, *, exclude: Collection[str] = ()) -> tuple[int, int]:
    """Copy into `model` every item that it has under the same name with the same shape.

    Args:
        exclude: parts of names ("anchor") that are left out.

    Returns:
        (items copied, items the model has).
    """
    own = model.state_dict()
    if isinstance(model, BaseModel):
        state_dict = model.align_state_dict(state_dict)
    fitting = {
        key: value
        for key, value in state_dict.items()
        if key in own and own[key].shape == value.shape and not any(part in key for part in exclude)
    }
    model.load_state_dict(fitting, strict=False)
    return len(fitting), len(own)
