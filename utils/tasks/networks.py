"""Build and load the networks of tasks: from model YAMLs, own checkpoints and those of any release of YOLOv5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoint import check_own, is_own, load_weights
from models.experimental import Ensemble
from models.graph import format_reason, load_model_yaml
from models.official import ADDRESSES, find_network_record, list_unknown_parts, restore_network
from models.safe_load import read_checkpoint
from models.yolo import BaseModel, Detect
from utils.core.downloads import OFFICIAL_RELEASES, OFFICIAL_WEIGHTS, download_weights
from utils.core.errors import InputError
from utils.core.files import expand_user
from utils.core.logging import LOGGER
from utils.imaging.semantic_classes import SemanticClasses
from utils.tasks.options import Overrides
from utils.tasks.registry import find_graph_task, find_task


@dataclass
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        model: the network, with the EMA's weights if the file has them; FP32, CPU, evaluation mode.
        names: class names by number, of a joint model those of the boxes.
        yaml: the graph; empty for official classifiers whose layers do not reveal it.
        epoch: last finished epoch of an unfinished training, else -1.
        official: written by the original YOLOv5.
        raw: content of a file of our format, or of an official file without its networks.
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


def build_model(
    cfg: str | Path | Mapping[str, Any],
    ch: int = 3,
    nc: int | None = None,
    anchors: float | None = None,
    n_segcls: int | None = None,
) -> BaseModel:
    """The network that the layers of a model YAML ask for: of a detector, an instance segmenter, ...

    Args:
        cfg: path, shipped name or content of the YAML.
        ch: input channels, unless the YAML names them.
        nc, anchors, n_segcls: override the YAML: classes, anchors per level, semantic classes.
    """
    graph = load_model_yaml(cfg)
    return find_graph_task(graph).build_network(graph, ch, Overrides(nc, anchors, n_segcls))


def load_checkpoint(path: str | Path, *, map_location: str | torch.device = "cpu") -> Checkpoint:
    """Load a checkpoint, our own or of any release of YOLOv5, without executing anything in it.

    Warns about weights that are not finite.

    Args:
        map_location: device of the network.

    Raises:
        InputError: missing, damaged, not a checkpoint, or it names a global that no checkpoint needs.
    """
    path = Path(path)
    content = read_checkpoint(path, ADDRESSES)
    checkpoint = _restore_own(content, path) if is_own(content) else _restore_official(content, path)
    _warn_of_damaged_weights(checkpoint)
    checkpoint.model.to(map_location)
    for module in checkpoint.model.modules():
        if isinstance(module, Detect):
            module.fill_grids()
    return checkpoint


def _warn_of_damaged_weights(checkpoint: Checkpoint) -> None:
    """Log a warning if weights are NaN or infinite: the network would not detect anything."""
    weights = {name: value for name, value in checkpoint.state_dict.items() if value.is_floating_point()}
    damaged = [name[:80] for name, value in weights.items() if not value.isfinite().all()]
    if damaged:
        LOGGER.warning(
            f"{checkpoint.path}: NaN or infinite values in {len(damaged)} of {len(weights)} weights, first "
            f"{damaged[0]}: the training diverged or overflowed; use an earlier checkpoint, or train with a lower lr0"
        )


def _restore_own(content: dict[str, Any], path: Path) -> Checkpoint:
    """A checkpoint of our format."""
    check_own(content, path)
    try:
        task = find_task(content["task"])
    except InputError as error:
        raise InputError(f"{path}: {error}; update this project to use the file") from error
    weights = content.get("ema") or content["model"]
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
            model = task.restore_network(content["yaml"], weights)
    except Exception as error:  # damaged content may raise any
        raise InputError(f"{path}: its weights do not fit its own graph: {format_reason(error)}") from error
    load_weights(model, weights, path)
    if missing := [number for number in range(model.nc) if number not in content["names"]]:
        raise InputError(f"{path}: damaged checkpoint, names: no name of class {missing[0]}; copy it again")
    model.names = dict(content["names"])
    if model.semantic is not None:
        model.semantic = _load_semantic_classes(content.get("semantic"), model.semantic, path)
    return Checkpoint(
        path,
        model.eval(),
        task.name,
        content["names"],
        model.yaml,
        content["epoch"],
        content.get("hyp") or {},
        content.get("opt") or {},
        content,
    )


def _load_semantic_classes(values: Any, numbered: SemanticClasses, path: Path) -> SemanticClasses:
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


def _restore_official(content: Any, path: Path) -> Checkpoint:
    """A checkpoint of the original YOLOv5."""
    record = find_network_record(content)
    if record is None:
        parts = (content, *content.values()) if isinstance(content, Mapping) else ()
        what = "weights without their network" if any(map(_is_state_dict, parts)) else "no network"
        raise InputError(f"{path}: holds {what}; give a checkpoint of train.py or of any release of YOLOv5")
    try:
        model = restore_network(record)
    except Exception as error:  # unexpected states may raise any
        raise InputError(f"{path}: cannot be used as a network: {format_reason(error)}") from error
    if unknown := list_unknown_parts(model):
        names = ", ".join(unknown[:9])[:200]
        LOGGER.warning(
            f"{path}: blocks with layers of a fork, which YOLOv5 does not have and does not run: {names}; results may "
            "differ from those of the program that trained it"
        )
    raw = {k: v for k, v in content.items() if k not in ("model", "ema")} if isinstance(content, dict) else {}
    opt = _to_mapping(raw.get("opt"))
    hyp = _to_mapping(getattr(model, "hyp", None)) or _to_mapping(opt.get("hyp"))
    epoch = raw.get("epoch")
    epoch = epoch if isinstance(epoch, int) else -1
    return Checkpoint(path, model, model.task, model.names, model.yaml, epoch, hyp, opt, raw, official=True)


def _to_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values())


def load_model(
    weights: str | Path | Sequence[str | Path], *, device: torch.device | str = "cpu", fuse: bool = True
) -> nn.Module:
    """The network of a checkpoint ready for inference: FP32, evaluation mode, with `fuse` batch norms folded in.

    Args:
        weights: a file or name, or several for an `Ensemble`.

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
        for trait, first in zip(_list_traits(network), _list_traits(networks[0]), strict=True):
            if trait != first:
                raise InputError(f"{file}: {trait}, but {files[0]} has {first}; they must agree")
    return Ensemble(networks).eval()


def _list_traits(network: Any) -> tuple[str, ...]:
    """What the members of an ensemble must have in common."""
    return f"task {network.task}", f"{len(network.semantic or ())} semantic classes", f"{network.nc} classes"


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    *,
    map_location: torch.device | str | None = None,
) -> nn.Module:
    """`load_model` with the name and arguments of the original, importable from `models.experimental`.

    Args:
        device: where the network is; None means the CPU.
        inplace: decode boxes in place.
        map_location: name of `device` up to release 6.1.
    """
    place = device if device is not None else map_location
    model = load_model(weights, device="cpu" if place is None else place, fuse=fuse)
    for module in model.modules():
        if "inplace" in vars(module):
            vars(module)["inplace"] = inplace
    return model


def find_weights(name: str | Path, *, releases: str = OFFICIAL_RELEASES) -> Path:
    """The checkpoint file of that name; an official one that is not on disk is downloaded from its release.

    Args:
        releases: URL of the releases page.

    Raises:
        InputError: neither a file nor an official name, or the download fails.
    """
    path = expand_user(name)
    if path.is_file():
        return path
    if path.name in OFFICIAL_WEIGHTS and not path.exists():
        return download_weights(path, check=load_checkpoint, releases=releases)
    if path.is_dir():
        raise InputError(f"{name}: is a folder, not a checkpoint; give a .pt file")
    known = sorted(p.name for p in path.parent.glob("*.pt")) if path.parent.is_dir() else []
    near = get_close_matches(path.name, [*known, *OFFICIAL_WEIGHTS], n=3)
    hint = f"near: {', '.join(near)}" if near else "give the path of a .pt file, or an official name such as yolov5s.pt"
    raise InputError(f"{name}: no such checkpoint; {hint}")
