"""Checkpoints of our own format: save, strip, load the training state, transfer weights.

The format is a mapping of plain values (numbers, strings, None, lists, tuples, dicts, tensors) in a file of
`torch.save`; no class is pickled, so any `torch.load(weights_only=True)` reads it. Its keys:

| key                      | value                                                                                 |
|--------------------------|---------------------------------------------------------------------------------------|
| format, version          | "openyolov5" and the version of this format                                           |
| task                     | name of the task, as "detect"; `utils.tasks.networks` rebuilds the network            |
| yaml                     | the graph as a model YAML, with `nc`, `ch` and the anchors it was built with; or the  |
|                          | name of a torchvision network                                                         |
| names                    | class number -> name; of a joint model those of the boxes                             |
| semantic                 | classes of the semantic masks (`SemanticClasses.to_dict`), if the network predicts them |
| model, ema               | state dicts; FP32 in training; the final file has only `model`, FP16, from the EMA    |
| ema_updates, optimizer, scaler, epoch, best_fitness, early_stop, task_state, image_weights | state of a training |
|                          | run; `epoch` is the last finished one. A file without `optimizer` cannot be resumed    |
| position                 | None between epochs, else finished `batches` of the next one, and its loss `meter`     |
| metrics, hyp, opt, date  | metrics, hyperparameters, settings and date of the run                                 |

Strides follow from the graph; anchors are part of the state dict. A task may add keys of plain data.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.classifiers import TorchvisionClassifier
from models.graph import format_reason
from models.official import ADDRESSES, find_network_record, restore_network
from models.pickle_reader import Global, PickledObject
from models.public_pickle import save_pickle
from models.safe_load import read_checkpoint
from models.yolo import BaseModel
from utils.core.errors import InputError
from utils.core.files import atomic_write

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
OFFICIAL_STATE = ("best_fitness", "ema", "optimizer", "updates", "wandb_id", "training_results")  # of the original
RESUME_KEYS = (*(key for key in TRAINING_STATE if key != "amp"), "hyp", "opt")
StateDict = Mapping[str, Tensor]


# -- reading ----------------------------------------------------------------------------------------------------------


def is_own(content: Any) -> bool:
    """Whether the content of a file is a checkpoint of our format."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def check_own(content: dict[str, Any], path: Path) -> None:
    """InputError for a file of our format with missing or invalid keys."""
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{path}: checkpoint format {_format(version)}, this version reads up to {VERSION}; update this project"
        )
    _check_keys(content, (*REQUIRED_KEYS, "epoch"), path)


def _check_keys(content: dict[str, Any], required: Collection[str], path: Path) -> None:
    """InputError if a required key is missing, or a key has a value of the wrong type."""
    if missing := [key for key in required if key not in content]:
        raise InputError(f"{path}: damaged checkpoint, it has no {', '.join(missing)}; copy it again")
    for key, (is_valid, expected) in VALUES.items():
        if key in content and not is_valid(content[key]) and not (content[key] is None and key not in required):
            shown = _format(content[key])
            raise InputError(f"{path}: damaged checkpoint, {key}: {shown} is not {expected}; copy it again")


def _format(value: Any) -> str:
    """A value for messages; containers and tensors, which may be large, by their type."""
    return repr(value)[:40] if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _are_settings(value: Any) -> bool:
    return _is_mapping(value) and _is_plain(value)


def _is_plain(value: Any) -> bool:
    """Whether a value consists of numbers and text, which can be compared and written as YAML."""
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_integer(value: Any) -> bool:
    return type(value) is int and -1 <= value < 2**63


def _are_names(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_integer(key) and isinstance(name, str) for key, name in value.items())


def _are_weights(value: Any) -> bool:
    return _is_mapping(value) and all(isinstance(item, Tensor) for item in value.values())


def _is_position(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and _is_integer(value.get("batches")) and "meter" in value)


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {  # what keys hold; those that are not required may be None
    "task": (lambda value: isinstance(value, str) and len(value) <= 40, "the name of a task"),
    "yaml": (_are_settings, "a mapping of plain values"),
    "names": (_are_names, "a mapping of class numbers to names"),
    "model": (_are_weights, "a mapping of names to tensors"),
    "ema": (_are_weights, "a mapping of names to tensors"),
    "ema_updates": (_is_integer, "a number of updates"),
    "optimizer": (_is_mapping, "a mapping"),
    "scaler": (_is_mapping, "a mapping"),
    "amp": (lambda value: isinstance(value, str), "a precision"),
    "epoch": (_is_integer, "the number of an epoch"),
    "early_stop": (_is_mapping, "a mapping"),
    "task_state": (_is_mapping, "a mapping"),
    "image_weights": (lambda value: value is None or isinstance(value, Tensor), "a tensor"),
    "position": (_is_position, "a number of batches and their loss"),
    "hyp": (_are_settings, "a mapping of plain values"),
    "opt": (_are_settings, "a mapping of plain values"),
}


def load_weights(model: nn.Module, weights: StateDict, path: str | Path) -> None:
    """Load the weights of a checkpoint into its network; InputError if they do not fit."""
    try:
        model.load_state_dict(weights)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{path}: its weights do not fit its own graph: {format_reason(error)}") from error


def load_training_state(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint to resume training from, tensors on the CPU.

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
            f"{path}: stripped, without training state; resume weights/last.pt, or start with --weights {path}"
        )
    _check_keys(content, RESUME_KEYS, path)
    return content


# -- writing ----------------------------------------------------------------------------------------------------------


def save_checkpoint(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Write a checkpoint of our format, atomically.

    Args:
        payload: keys of the table above except format and version; task, yaml, names and model are required.

    Raises:
        InputError: the file cannot be written.
        TypeError: a value is not plain data; the message names its key.
    """
    if missing := [key for key in REQUIRED_KEYS if key not in payload]:
        raise ValueError(f"checkpoint without {', '.join(missing)}")
    content = {"format": FORMAT, "version": VERSION, **TRAINING_STATE, **payload}
    plain = {key: _to_plain(value, key) for key, value in content.items()}
    with _explain_failure(path), atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save(plain, file)


@contextmanager
def _explain_failure(path: str | Path) -> Iterator[None]:
    """Context in which a file is written; InputError if that fails."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as either
        old = "the old file is unchanged, " if Path(path).exists() else ""
        full = isinstance(error, RuntimeError) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "choose a path that can be written"
        raise InputError(f"{path}: cannot be written ({error}); {old}{remedy}") from error


def _to_plain(value: Any, key: str) -> Any:
    """The value as plain data on the CPU; TypeError if it is not plain."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_to_plain(name, key): _to_plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_plain(item, f"{key}[{i}]") for i, item in enumerate(value))
    raise TypeError(f"checkpoint: {key} is {type(value).__name__}, not plain data")


def strip_checkpoint(src: str | Path, dst: str | Path | None = None) -> Path:
    """Strip a checkpoint to the EMA's weights in FP16, without training state; it keeps its format.

    A file of the original YOLOv5 remains a pickled network with the keys of the original's stripped files.

    Args:
        dst: target; None replaces `src`.

    Returns:
        The file written.

    Raises:
        InputError: not a checkpoint, damaged, or the target cannot be written.
    """
    src = Path(src)
    content = read_checkpoint(src, ADDRESSES)
    target = src if dst is None else Path(dst)
    if not is_own(content):
        _strip_official(content, src, target)
        return target
    check_own(content, src)
    weights = content.get("ema") or content["model"]
    try:
        save_checkpoint(target, {**content, **TRAINING_STATE, "model": {k: _to_half(k, v) for k, v in weights.items()}})
    except TypeError as error:  # not written by `save_checkpoint`
        raise InputError(f"{src}: damaged {error}; copy it again") from error
    return target


def _strip_official(content: Any, src: Path, target: Path) -> None:
    """Write the network of a file of the original YOLOv5 in FP16, without training state."""
    record = find_network_record(content)
    if record is None:
        raise InputError(f"{src}: holds no network; give a checkpoint of train.py or of any release of YOLOv5")
    try:
        network: Any = restore_network(record)
    except Exception as error:  # unexpected states may raise any
        raise InputError(f"{src}: cannot be used as a network: {format_reason(error)}") from error
    others = {k: _drop_records(v) for k, v in content.items() if k != "ema"} if isinstance(content, dict) else {}
    if isinstance(network, TorchvisionClassifier):  # the original pickles the network in it
        inner: Any = network.model
        inner.names, network = network.names, inner
    stripped = {key: None for key in OFFICIAL_STATE if key in others or key in OFFICIAL_STATE[:4]}
    network = network.half().requires_grad_(False)
    with _explain_failure(target):
        save_pickle(target, {**others, **stripped, "epoch": -1, "model": network})


def _drop_records(value: Any) -> Any:
    """The value without objects of classes."""
    if isinstance(value, Mapping):
        return {key: _drop_records(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_drop_records(item) for item in value)
    return None if isinstance(value, PickledObject | Global) else value


def _to_half(key: str, value: Tensor) -> Tensor:
    """Convert to FP16 unless that overflows; anchors stay exact."""
    if not value.is_floating_point() or key.endswith("anchors"):
        return value
    half = value.half()
    return half if torch.equal(half.isfinite(), value.isfinite()) else value


# -- using ------------------------------------------------------------------------------------------------------------


def transfer_weights(model: nn.Module, state_dict: StateDict, *, exclude: Collection[str] = ()) -> tuple[int, int]:
    """Copy into `model` every item that it has under the same name with the same shape.

    Args:
        exclude: items whose name contains one of these ("anchor") are skipped.

    Returns:
        (items copied, items the model has).
    """
    current = model.state_dict()
    if isinstance(model, BaseModel):
        state_dict = model.align_state_dict(state_dict)
    matching = {
        key: value
        for key, value in state_dict.items()
        if key in current and current[key].shape == value.shape and not any(part in key for part in exclude)
    }
    model.load_state_dict(matching, strict=False)
    return len(matching), len(current)
