"""Checkpoints: our own, which are plain data, and those of YOLOv5 releases 3.0 to 7.0.

Our format is a mapping of plain values (numbers, strings, None, lists, tuples, dicts, tensors) in a file of
`torch.save`; no class is pickled, so any `torch.load(weights_only=True)` reads it. Its keys:

| key                      | holds                                                                                 |
|--------------------------|---------------------------------------------------------------------------------------|
| format, version          | "openyolov5" and the number of this description                                       |
| task                     | "detect", "segment", "classify", "semantic" or "joint"                                |
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
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.classifiers import KEY as TORCHVISION
from models.classifiers import build_classifier
from models.experimental import Ensemble
from models.official import ADDRESSES, network_of, restore_network
from models.safe_load import read_checkpoint
from models.yolo import BaseModel, DetectionModel, JointModel, SegmentationModel, SemanticModel, task_of
from utils.core.downloads import OFFICIAL_RELEASES, OFFICIAL_WEIGHTS, fetch_weights
from utils.core.errors import InputError
from utils.core.files import atomic_write, expand_user
from utils.core.logging import LOGGER
from utils.imaging.semantic_classes import SemanticClasses

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
LAYER_KEY = re.compile(r"model\.(\d+)\.")


@dataclass
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        model: the network with the EMA's weights where the file has them; FP32, CPU, evaluation mode.
        names: class names by number, of a joint model those of the boxes.
        yaml: the graph; empty for official classifiers whose layers do not tell it.
        epoch: last finished epoch of an unfinished training, else -1.
        official: written by the original YOLOv5.
        raw: our format's mapping, or what an official file has beside its networks.
    """

    path: Path
    model: BaseModel
    task: str
    names: dict[Any, Any]
    yaml: dict[str, Any]
    epoch: int = -1
    hyp: dict[str, Any] = field(default_factory=dict)
    opt: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    official: bool = False

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The weights, FP32."""
        return self.model.state_dict()


# -- reading ----------------------------------------------------------------------------------------------------------


def load_checkpoint(path: str | Path, *, map_location: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint of ours or of YOLOv5 3.0 to 7.0 and rebuild its network; nothing in the file is executed.

    Args:
        map_location: device of the network.

    Raises:
        InputError: no such file, damaged, no checkpoint, or it names a global that no checkpoint needs.
    """
    path = Path(path)
    content = read_checkpoint(path, ADDRESSES)
    is_ours = isinstance(content, dict) and content.get("format") == FORMAT
    checkpoint = _from_own(content, path) if is_ours else _from_official(content, path)
    checkpoint.model.to(map_location)
    return checkpoint


def _from_own(content: dict[str, Any], path: Path) -> Checkpoint:
    _check_own(content, path)
    weights = content.get("ema") or content["model"]
    build = NETWORKS.get(content["task"])
    if build is None:
        known = ", ".join(NETWORKS)
        raise InputError(f"{path}: task {content['task']!r} is not known to this version, which has {known}; update it")
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn in vain
            model = build(content["yaml"], weights)
        model.load_state_dict(weights)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:  # foreign values
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: its weights do not fit its own graph: {reason}") from error
    model.names = dict(content["names"])
    if model.semantic is not None:
        model.semantic = _semantic_classes(content.get("semantic"), model.semantic, path)
    description = model.yaml
    hyp, opt = content.get("hyp") or {}, content.get("opt") or {}
    return Checkpoint(
        path, model.eval(), content["task"], content["names"], description, content["epoch"], hyp, opt, content
    )


def _check_own(content: dict[str, Any], path: Path) -> None:
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


def _classifier(description: Mapping[str, Any], weights: StateDict) -> BaseModel:
    """A classifier: the number of classes, and where it is cut from a detector, follow from the weights."""
    if TORCHVISION in description:
        return build_classifier(description, nc=int(description["nc"]))
    cutoff = 1 + max(int(key.split(".")[1]) for key in weights)
    outputs = len(weights[f"model.{cutoff - 1}.linear.bias"])
    return build_classifier(description, nc=outputs, cutoff=cutoff)


NETWORKS: dict[str, Callable[[Mapping[str, Any], StateDict], BaseModel]] = {  # a task adds its row
    "detect": lambda description, _weights: DetectionModel(description),
    "segment": lambda description, _weights: SegmentationModel(description),
    "classify": _classifier,
    "semantic": lambda description, _weights: SemanticModel(description),
    "joint": lambda description, _weights: JointModel(description),
}


def _semantic_classes(values: Any, numbered: SemanticClasses, path: Path) -> SemanticClasses:
    """The classes of the semantic mask that the file names, or else `numbered`.

    Raises:
        InputError: they are damaged, or not as many as the network has.
    """
    if values is None:
        return numbered
    try:
        classes = SemanticClasses.from_dict(values)
    except ValueError as error:
        raise InputError(f"{path}: damaged checkpoint, semantic: {error}; copy it again") from error
    if len(classes) != len(numbered):
        raise InputError(f"{path}: damaged checkpoint, semantic: {len(classes)} classes, its graph has {len(numbered)}")
    return classes


def _from_official(content: Any, path: Path) -> Checkpoint:
    record = network_of(content)
    if record is None:
        what = "weights without their network" if _is_state_dict(content) else "no network"
        raise InputError(f"{path}: holds {what}; give a checkpoint of train.py or of YOLOv5 3.0 to 7.0")
    try:
        model = restore_network(record)
    except (InputError, AttributeError, TypeError, KeyError, RuntimeError) as error:  # states of unknown origin
        raise InputError(f"{path}: cannot be used as a network: {error}") from error
    raw = {k: v for k, v in content.items() if k not in ("model", "ema")} if isinstance(content, dict) else {}
    opt = raw.get("opt") or {}
    hyp = getattr(model, "hyp", None) or opt.get("hyp") or {}
    return Checkpoint(
        path,
        model,
        task_of(model),
        model.names,
        getattr(model, "yaml", {}),
        raw.get("epoch", -1),
        hyp,
        opt,
        raw,
        official=True,
    )


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values())


def load_training_state(path: str | Path) -> dict[str, Any]:
    """The whole mapping of a checkpoint of ours that a training run can go on from, tensors on the CPU.

    Raises:
        InputError: as `load_checkpoint`, or the file has no training state.
    """
    path = Path(path)
    content = read_checkpoint(path, ADDRESSES)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not written by this train.py, so it cannot be resumed; start with --weights {path}")
    _check_own(content, path)
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
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        LOGGER.warning(f"{src}: not stripped, it is no checkpoint of this project")
        return src
    _check_own(content, src)
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
    if isinstance(model, JointModel):
        state_dict = _with_room_for_map(model, state_dict)
    fitting = {
        key: value
        for key, value in state_dict.items()
        if key in own and own[key].shape == value.shape and not any(part in key for part in exclude)
    }
    model.load_state_dict(fitting, strict=False)
    return len(fitting), len(own)


def _with_room_for_map(model: JointModel, state_dict: StateDict) -> StateDict:
    """A detector's weights under the names that its layers have in `model`, whose other head may stand among them."""
    place = model.semantic_head.i
    layers = {key: int(found[1]) for key in state_dict if (found := LAYER_KEY.match(key))}
    if max(layers.values(), default=0) + 2 != len(model.model):
        return state_dict
    moved = {key: LAYER_KEY.sub(f"model.{layer + 1}.", key) for key, layer in layers.items() if layer >= place}
    return {moved.get(key, key): value for key, value in state_dict.items()}


def load_model(
    weights: str | Path | Sequence[str | Path], *, device: torch.device | str = "cpu", fuse: bool = True
) -> nn.Module:
    """The network of a checkpoint ready for inference: FP32, evaluation mode, with `fuse` batch norms folded in.

    Args:
        weights: a file or name, or several: their boxes are joined by an `Ensemble`.

    Raises:
        InputError: as `find_weights` and `load_checkpoint`, or the classes of the networks differ.
    """
    files = [weights] if isinstance(weights, str | Path) else list(weights)
    networks = []
    for file in files:
        network = load_checkpoint(find_weights(file), map_location=device).model.requires_grad_(False)
        networks.append(network.fuse() if fuse else network)
    if len(networks) == 1:
        return networks[0]
    for file, network in zip(files, networks, strict=True):
        for what, of in (("task", task_of), ("semantic classes", lambda member: len(member.semantic or ()))):
            if (own := of(network)) != (first := of(networks[0])):
                raise InputError(f"{file}: {what} {own}, but {files[0]} has {first}; they must agree")
        if network.nc != networks[0].nc:
            raise InputError(f"{file}: {network.nc} classes, but {files[0]} has {networks[0].nc}; they must agree")
    return Ensemble(networks).eval()


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
) -> nn.Module:
    """`load_model` under the name and with the arguments that other tools import from `models.experimental`."""
    model = load_model(weights, device="cpu" if device is None else device, fuse=fuse)
    for module in model.modules():
        if "inplace" in vars(module):
            vars(module)["inplace"] = inplace
    return model


def find_weights(name: str | Path, *, releases: str = OFFICIAL_RELEASES) -> Path:
    """The checkpoint file of that name; an official name that is not on disk is fetched from the official release.

    Args:
        releases: address of the releases page.

    Raises:
        InputError: neither a file nor an official name, or it cannot be fetched.
    """
    path = expand_user(name)
    if path.is_file():
        return path
    if path.name in OFFICIAL_WEIGHTS and not path.exists():
        return fetch_weights(path, check=load_checkpoint, releases=releases)
    if path.is_dir():
        raise InputError(f"{name}: is a folder, not a checkpoint; give a .pt file")
    known = sorted(p.name for p in path.parent.glob("*.pt")) if path.parent.is_dir() else []
    near = get_close_matches(path.name, [*known, *OFFICIAL_WEIGHTS], n=3)
    hint = f"near: {', '.join(near)}" if near else "give the path of a .pt file, or an official name such as yolov5s.pt"
    raise InputError(f"{name}: no such checkpoint; {hint}")
