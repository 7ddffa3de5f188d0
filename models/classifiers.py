"""Classifiers: the first layers of a detector, or a torchvision network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import common
from models.graph import load_model_yaml
from models.yolo import BaseModel, ClassificationModel
from utils.core.downloads import download_file, file_sha256
from utils.core.errors import InputError
from utils.core.logging import LOGGER

TORCHVISION_KEY = "torchvision"  # of a model config that names a torchvision network
CUTOFF = 10  # default number of layers of a classifier, including its head
TORCHVISION_STRIDE = 32.0  # of all torchvision classifiers, at least approximately; rounds image sizes


class TorchvisionClassifier(ClassificationModel):
    """A classifier of `torchvision.models`, without pretrained weights.

    Args:
        name: name for `torchvision.models.get_model`.
        nc: number of classes.

    Attributes:
        yaml: `{"torchvision": name, "nc": ..., "ch": 3}`, stored in checkpoints to rebuild the network.
    """

    def __init__(self, name: str, nc: int = 1000) -> None:
        super(ClassificationModel, self).__init__()
        import torchvision  # takes a second, so only where a network of it is used

        builder = torchvision.models.get_model_builder(check_torchvision_name(name))
        options: dict[str, Any] = {"weights": None, "num_classes": nc}
        if name in ("inception_v3", "googlenet"):  # without their auxiliary outputs
            options |= {"aux_logits": False, "init_weights": True}
        self.model = builder(**options)
        self.save: list[int] = []
        self.stride = torch.tensor([TORCHVISION_STRIDE])
        self.yaml, self.yaml_file, self.inplace = {TORCHVISION_KEY: name, "nc": nc, "ch": 3}, name, True
        self.nc = nc
        self.names = {i: str(i) for i in range(nc)}

    def _run(self, x: Tensor, profile: bool = False, visualize: Any = False) -> Any:
        """Logits (B, nc)."""
        if profile or visualize:
            LOGGER.warning(f"{self.yaml_file}: --profile and --visualize support YOLOv5 networks only; ignored")
        return self.model(x)


def build_classifier(cfg: str | Path | Mapping[str, Any], nc: int, cutoff: int | None = None) -> BaseModel:
    """Build a torchvision network, or a classifier from the first layers of a detector.

    Args:
        cfg: see `load_classifier_graph`.
        nc: number of classes.
        cutoff: number of layers, including the head; None uses the value in `cfg`, else 10.

    Raises:
        InputError: invalid config, or the detector has fewer layers.
    """
    graph = load_classifier_graph(cfg)
    if TORCHVISION_KEY in graph:
        if cutoff is not None:
            raise InputError(f"--cutoff {cutoff}: not supported by {graph[TORCHVISION_KEY]}; leave the flag out")
        return TorchvisionClassifier(str(graph[TORCHVISION_KEY]), nc)
    cutoff = cutoff or int(graph.get("cutoff", CUTOFF))
    rows = len(graph["backbone"]) + len(graph["head"])
    if not 2 <= cutoff <= rows:
        raise InputError(f"--cutoff {cutoff}: the network has {rows} layers; use a number from 2 to {rows}")
    return ClassificationModel(graph, nc=nc, cutoff=cutoff)


def load_classifier_graph(cfg: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Load a model YAML, or return `{"torchvision": name}` for the name of a torchvision classifier.

    Raises:
        InputError: neither of them.
    """
    if isinstance(cfg, Mapping):
        return dict(cfg) if TORCHVISION_KEY in cfg else load_model_yaml(cfg)
    name = str(cfg)
    if Path(name).suffix in (".yaml", ".yml") or name.startswith("yolov"):
        return load_model_yaml(name)
    return {TORCHVISION_KEY: check_torchvision_name(name), "ch": 3}


def check_torchvision_name(name: str) -> str:
    """Return the name; InputError with near misses if torchvision has no such classifier."""
    known = list_torchvision_names()
    if name not in known:
        near = get_close_matches(name, known, n=3)
        hint = f"near: {', '.join(near)}" if near else "for example resnet18 or efficientnet_b0"
        raise InputError(f"--model {name}: not a .pt file, a model YAML or a torchvision classifier; {hint}")
    return name


@lru_cache(maxsize=1)
def list_torchvision_names() -> tuple[str, ...]:
    """Names of the classifiers in the installed torchvision."""
    import torchvision

    return tuple(torchvision.models.list_models(module=torchvision.models))


def load_torchvision_weights(name: str) -> dict[str, Tensor]:
    """ImageNet weights of a torchvision network, downloaded to torch's cache folder if they are not there.

    Raises:
        InputError: the weights are unavailable or damaged.
    """
    import torchvision

    entry = torchvision.models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    if not file.is_file():
        LOGGER.info(f"--pretrained: downloading the weights of {name} ({entry}) from {entry.url}")
        download_file(entry.url, file)
    digest = file.stem.rpartition("-")[2]  # the file name ends with the first digits of its SHA-256
    if not file_sha256(file).startswith(digest):
        raise InputError(f"{file}: damaged, its SHA-256 does not start with {digest}; remove it and try again")
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return {f"model.{key}": value for key, value in weights.items()}


# -- model YAMLs from layers ------------------------------------------------------------------------------------------


def describe_layers(layers: nn.Sequential) -> dict[str, Any]:
    """Model YAML of a classifier, inferred from its layers; the last one, a `Classify`, becomes a placeholder.

    Official classifiers consist of the first layers of a detector and store no YAML. The result is empty if the
    arguments of a layer cannot be inferred.
    """
    rows = []
    for layer in list(layers)[:-1]:
        describe = ROW_DESCRIBERS.get(type(layer))
        if describe is None or not isinstance(origin := getattr(layer, "f", -1), int):
            return {}
        rows.append([origin, *describe(layer)])
    if not rows or not isinstance(layers[-1], common.Classify):
        return {}
    placeholder = [getattr(layers[-1], "f", -1), 1, "Conv", [layers[-1].conv.conv.out_channels]]
    unscaled = {"depth_multiple": 1.0, "width_multiple": 1.0}
    return {**unscaled, "backbone": [*rows, placeholder], "head": [], "cutoff": len(layers)}


def _describe_conv(layer: Any) -> list[Any]:
    conv = layer.conv
    arguments = [conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0], conv.groups]
    with_dilation = [*arguments, conv.dilation[0]] if conv.dilation[0] > 1 else arguments
    return [1, type(layer).__name__, with_dilation]


def _describe_c3(layer: Any) -> list[Any]:
    out, hidden, block = layer.cv3.conv.out_channels, layer.cv1.conv.out_channels, layer.m[0]
    groups = block.cv2.conv.groups
    non_default = [groups, hidden / out] if groups > 1 or hidden != out // 2 else []
    return [len(layer.m), type(layer).__name__, [out, bool(block.add), *non_default]]


def _describe_sppf(layer: Any) -> list[Any]:
    return [1, type(layer).__name__, [layer.cv2.conv.out_channels, int(layer.m.kernel_size)]]


def _describe_spp(layer: Any) -> list[Any]:
    return [1, type(layer).__name__, [layer.cv2.conv.out_channels, [int(pool.kernel_size) for pool in layer.m]]]


def _describe_focus(layer: Any) -> list[Any]:
    conv = layer.conv.conv
    return [1, "Focus", [conv.out_channels, conv.kernel_size[0], conv.stride[0]]]


ROW_DESCRIBERS: dict[type[nn.Module], Callable[[Any], list[Any]]] = {
    common.Conv: _describe_conv,
    common.C3: _describe_c3,
    common.SPPF: _describe_sppf,
    common.SPP: _describe_spp,
    common.Focus: _describe_focus,
}
