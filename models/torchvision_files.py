"""Torchvision networks in pickled checkpoints, as `classify/train.py --model resnet50` of YOLOv5 writes them.

Nothing of the pickled modules is used but the tensors and their names: the network of torchvision that has the same
ones is built and filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from models.classifiers import TorchvisionClassifier, list_torchvision_names
from models.pickled_values import Record
from utils.core.errors import InputError

FAMILIES: dict[str, tuple[str, ...]] = {  # module of torchvision.models: its network class, then classes of its layers
    "convnext": ("ConvNeXt", "CNBlock", "LayerNorm2d"),
    "densenet": ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition"),
    "efficientnet": ("EfficientNet", "FusedMBConv", "MBConv"),
    "mnasnet": ("MNASNet", "_InvertedResidual"),
    "mobilenetv2": ("MobileNetV2", "ConvBNActivation", "ConvBNReLU", "InvertedResidual"),
    "mobilenetv3": ("MobileNetV3", "InvertedResidual"),
    "regnet": ("RegNet", "AnyStage", "BottleneckTransform", "ResBottleneckBlock", "SimpleStemIN"),
    "resnet": ("ResNet", "BasicBlock", "Bottleneck"),
    "shufflenetv2": ("ShuffleNetV2", "InvertedResidual"),
    "squeezenet": ("SqueezeNet", "Fire"),
    "vgg": ("VGG",),
}
LAYERS = ("misc.Conv2dNormActivation", "misc.ConvNormActivation", "misc.Permute", "misc.SqueezeExcitation")
OWN = "models.classifiers.TorchvisionClassifier"
NETWORKS = {f"torchvision.models.{family}.{classes[0]}": family for family, classes in FAMILIES.items()}
ADDRESSES = (
    *(f"torchvision.models.{family}.{name}" for family, classes in FAMILIES.items() for name in classes),
    *(f"torchvision.ops.{name}" for name in (*LAYERS, "stochastic_depth.StochasticDepth")),
    OWN,
)


def is_torchvision(record: Record) -> bool:
    """Whether a record is a torchvision network."""
    return record.address in NETWORKS or record.address == OWN


def restore_torchvision(record: Record) -> tuple[TorchvisionClassifier, Any]:
    """The network of a record, in FP32 and evaluation mode, and the names of its classes in the file or None.

    Raises:
        InputError: torchvision has no network with these weights.
    """
    inner = record.state.get("_modules", {}).get("model") if record.address == OWN else record
    if not isinstance(inner, Record) or inner.address not in NETWORKS:
        raise InputError(f"{record.address} has no network of torchvision")
    weights = dict(_iter_tensors(inner))
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    last = next((tensor for name, tensor in reversed(weights.items()) if name.endswith("bias")), torch.zeros(()))
    if not last.numel():
        raise InputError(f"{inner.address} has no last layer")
    family = f"torchvision.models.{NETWORKS[inner.address]}"
    import torchvision  # takes a second, so only for its networks

    for name in list_torchvision_names():
        if torchvision.models.get_model_builder(name).__module__ != family:
            continue
        with torch.device("meta"):
            candidate = torchvision.models.get_model(name, weights=None, num_classes=len(last))
        if {key: tensor.shape for key, tensor in candidate.state_dict().items()} == shapes:
            with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
                network = TorchvisionClassifier(name, len(last))
            network.model.load_state_dict(weights)
            return network.eval(), record.state.get("names")
    raise InputError(f"torchvision has no {inner.address.rpartition('.')[2]} with these weights")


def _iter_tensors(record: Record, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a record, with the names that a state dict gives them."""
    excluded = record.state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers", "_modules"):
        members = record.state.get(kind)
        for name, value in members.items() if isinstance(members, Mapping) else ():
            if isinstance(value, Record) and kind == "_modules":
                yield from _iter_tensors(value, f"{prefix}{name}.")
            elif isinstance(value, Tensor) and name not in excluded:
                yield f"{prefix}{name}", value
