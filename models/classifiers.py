"""Classifiers by description: cut from a detector's graph, torchvision's by name, and rows of one that kept no YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from models import common
from models.graph import load_model_yaml
from models.yolo import BaseModel, ClassificationModel
from utils.core.downloads import fetch, file_sha256
from utils.core.errors import InputError
from utils.core.logging import LOGGER

KEY = "torchvision"  # of a graph description that names one of its networks
CUTOFF = 10  # layers of a detector that a classifier keeps, its head included
TORCHVISION_STRIDE = 32.0  # of all its classifiers, or near enough for the choice of an image size


class TorchvisionClassifier(ClassificationModel):
    """A network of `torchvision.models`, built without weights.

    Args:
        name: as `torchvision.models.get_model` takes it.
        nc: number of classes.

    Attributes:
        yaml: `{"torchvision": name, "nc": ..., "ch": 3}`, from which a checkpoint rebuilds it.
    """

    def __init__(self, name: str, nc: int = 1000) -> None:
        super(ClassificationModel, self).__init__()
        maker = torchvision.models.get_model_builder(check_torchvision_name(name))
        options: dict[str, Any] = {"weights": None, "num_classes": nc}
        if name in ("inception_v3", "googlenet"):  # their second outputs are for a loss of their own
            options |= {"aux_logits": False, "init_weights": True}
        self.model = maker(**options)
        self.save: list[int] = []
        self.stride = torch.tensor([TORCHVISION_STRIDE])
        self.yaml, self.yaml_file, self.inplace = {KEY: name, "nc": nc, "ch": 3}, name, True
        self.nc = nc
        self.names = {i: str(i) for i in range(nc)}

    def _run(self, x: Tensor, profile: bool = False, visualize: Any = False) -> Any:
        """Logits (B, nc); the parts of the network are no rows, so there are no times and images of layers."""
        if profile or visualize:
            LOGGER.warning(f"{self.yaml_file}: --profile and --visualize show layers of YOLOv5 graphs only")
        return self.model(x)


def build_classifier(description: str | Path | Mapping[str, Any], nc: int, cutoff: int | None = None) -> BaseModel:
    """The classifier that a description stands for: a torchvision network, or the first layers of a detector.

    Args:
        description: as `load_classifier_graph` gives it, or what that takes.
        nc: number of classes.
        cutoff: layers kept of a detector, the head included; None as described, else 10.

    Raises:
        InputError: the description cannot be used, or the graph has fewer layers.
    """
    graph = load_classifier_graph(description)
    if KEY in graph:
        if cutoff is not None:
            raise InputError(f"--cutoff {cutoff}: cuts detectors, {graph[KEY]} is whole; leave it out")
        return TorchvisionClassifier(str(graph[KEY]), nc)
    cutoff = cutoff or int(graph.get("cutoff", CUTOFF))
    rows = len(graph["backbone"]) + len(graph["head"])
    if not 2 <= cutoff <= rows:
        raise InputError(f"--cutoff {cutoff}: the graph has {rows} layers, of which 2 to {rows} can be kept")
    return ClassificationModel(graph, nc=nc, cutoff=cutoff)


def load_classifier_graph(cfg: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A model YAML's content, or `{"torchvision": name}` for the name of one of its networks.

    Raises:
        InputError: neither.
    """
    if isinstance(cfg, Mapping):
        return dict(cfg) if KEY in cfg else load_model_yaml(cfg)
    name = str(cfg)
    if Path(name).suffix in (".yaml", ".yml") or name.startswith("yolov"):
        return load_model_yaml(name)
    return {KEY: check_torchvision_name(name), "ch": 3}


def check_torchvision_name(name: str) -> str:
    """The name itself; InputError with near misses where torchvision has no such classifier."""
    known = torchvision_names()
    if name not in known:
        near = get_close_matches(name, known, n=3)
        hint = f"near: {', '.join(near)}" if near else "as resnet18 or efficientnet_b0"
        raise InputError(f"--model {name}: neither a .pt file, a model YAML nor a classifier of torchvision; {hint}")
    return name


@lru_cache(maxsize=1)
def torchvision_names() -> tuple[str, ...]:
    """Classifiers of the installed torchvision."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """The ImageNet weights that torchvision publishes for a network, from its cache folder or fetched into it.

    Raises:
        InputError: they cannot be had; says where to put the file.
    """
    entry = torchvision.models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    if not file.is_file():
        LOGGER.info(f"--pretrained: fetching the weights of {name} ({entry}) from {entry.url}")
        fetch(entry.url, file)
    digest = file.stem.rpartition("-")[2]  # the name carries the first letters of its SHA-256
    if not file_sha256(file).startswith(digest):
        raise InputError(f"{file}: damaged, its SHA-256 does not start with {digest}; remove it and try again")
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return {f"model.{key}": value for key, value in weights.items()}


# -- rows of networks that kept none ----------------------------------------------------------------------------------


def describe_layers(layers: nn.Sequential) -> dict[str, Any]:
    """A model YAML whose first rows are these layers, the last one, a `Classify`, replaced by a stand-in.

    Classifiers of the original are cut from a detector and keep no YAML; their layers tell it. Empty where a layer is
    of a kind that does not.
    """
    rows = []
    for layer in list(layers)[:-1]:
        describe = ROWS.get(type(layer))
        if describe is None or not isinstance(origin := getattr(layer, "f", -1), int):
            return {}
        rows.append([origin, *describe(layer)])
    if not rows or not isinstance(layers[-1], common.Classify):
        return {}
    stand_in = [getattr(layers[-1], "f", -1), 1, "Conv", [layers[-1].conv.conv.out_channels]]
    unscaled = {"depth_multiple": 1.0, "width_multiple": 1.0}
    return {**unscaled, "backbone": [*rows, stand_in], "head": [], "cutoff": len(layers)}


def _conv_row(layer: Any) -> list[Any]:
    conv = layer.conv
    arguments = [conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0], conv.groups]
    with_dilation = [*arguments, conv.dilation[0]] if conv.dilation[0] > 1 else arguments
    return [1, type(layer).__name__, with_dilation]


def _stack_row(layer: Any) -> list[Any]:
    """C3 and its like: the blocks inside are counted, and half the channels are hidden unless said."""
    out, hidden, block = layer.cv3.conv.out_channels, layer.cv1.conv.out_channels, layer.m[0]
    groups = block.cv2.conv.groups
    share = [groups, hidden / out] if groups > 1 or hidden != out // 2 else []
    return [len(layer.m), type(layer).__name__, [out, bool(block.add), *share]]


def _pool_row(layer: Any) -> list[Any]:
    return [1, type(layer).__name__, [layer.cv2.conv.out_channels, int(layer.m.kernel_size)]]


def _pools_row(layer: Any) -> list[Any]:
    return [1, type(layer).__name__, [layer.cv2.conv.out_channels, [int(pool.kernel_size) for pool in layer.m]]]


def _focus_row(layer: Any) -> list[Any]:
    conv = layer.conv.conv
    return [1, "Focus", [conv.out_channels, conv.kernel_size[0], conv.stride[0]]]


ROWS: dict[type[nn.Module], Callable[[Any], list[Any]]] = {
    common.Conv: _conv_row,
    common.C3: _stack_row,
    common.SPPF: _pool_row,
    common.SPP: _pools_row,
    common.Focus: _focus_row,
}
