"""From the records of an official YOLOv5 checkpoint (releases 3.0 to 7.0) to networks of this project.

Addresses of old releases lead to today's classes; attributes that an old release or an old PyTorch did not have are
supplied; what would run code (hooks, replaced methods) is left behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from models import common, experimental, yolo
from models.classifiers import describe_layers
from models.safe_load import Record
from utils import activations
from utils.core.errors import InputError

COMMON = (
    common.Conv, common.DWConv, common.DWConvTranspose2d, common.TransformerLayer, common.TransformerBlock,
    common.Bottleneck, common.BottleneckCSP, common.CrossConv, common.C3, common.C3x, common.C3TR, common.C3SPP,
    common.C3Ghost, common.SPP, common.SPPF, common.Focus, common.GhostConv, common.GhostBottleneck, common.Contract,
    common.Expand, common.Concat, common.Proto, common.Classify, experimental.Flatten,
)  # fmt: skip
EXPERIMENTAL = (
    experimental.Sum, experimental.MixConv2d, experimental.ConvPlus, common.CrossConv, common.GhostConv,
    common.GhostBottleneck,
)  # fmt: skip
NETWORK_PARTS = (
    yolo.Detect, yolo.Segment, yolo.DetectionModel, yolo.SegmentationModel, yolo.ClassificationModel,
)  # fmt: skip
ACTIVATIONS = (
    activations.SiLU, activations.Hardswish, activations.Mish, activations.MemoryEfficientMish, activations.FReLU,
    activations.AconC, activations.MetaAconC,
)  # fmt: skip
TORCH_LAYERS = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.LayerNorm, nn.Linear, nn.MultiheadAttention, nn.Identity,
    nn.Flatten, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.Sequential, nn.ModuleList, nn.SiLU, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid,
    nn.Tanh, nn.Hardtanh, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.PReLU, nn.Mish, nn.Softplus,
)  # fmt: skip
IMAGE_TRANSFORMS = (  # attributes of classifiers; read, never rebuilt
    "torchvision.transforms.transforms.Compose",
    "torchvision.transforms.transforms.Normalize",
    "utils.augmentations.CenterCrop",
    "utils.augmentations.ToTensor",
)


def _module_classes() -> dict[str, type[nn.Module]]:
    """Our class for every address that an official checkpoint may name."""
    places: dict[str, tuple[type[nn.Module], ...]] = {
        "models.common": COMMON,
        "models.experimental": EXPERIMENTAL,
        "models.yolo": NETWORK_PARTS,
        "utils.activations": ACTIVATIONS,
    }
    table = {f"{place}.{kind.__name__}": kind for place, kinds in places.items() for kind in kinds}
    table |= {f"{kind.__module__}.{kind.__name__}": kind for kind in TORCH_LAYERS}
    table["models.yolo.Model"] = yolo.DetectionModel  # its name until 6.1
    table["models.experimental.C3"] = experimental.C3Cross
    for name in ("NonDynamicallyQuantizableLinear", "_LinearWithBias"):  # the latter up to torch 1.8
        table[f"torch.nn.modules.linear.{name}"] = NonDynamicallyQuantizableLinear
    return table


MODULE_CLASSES = _module_classes()
ADDRESSES = (*MODULE_CLASSES, *IMAGE_TRANSFORMS)
PRIVATE_DATA = ("_reversed_padding_repeated_twice", "_qkv_same_embed_dim")  # of Conv2d, of MultiheadAttention
WITH_INPLACE = (nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.Mish)
NETWORK_BY_HEAD = {"Segment": yolo.SegmentationModel, "Classify": yolo.ClassificationModel}
MISSING: tuple[tuple[Any, str, Any], ...] = (  # (class, attribute that old files lack, its value)
    (nn.Upsample, "recompute_scale_factor", None),
    (nn.MultiheadAttention, "batch_first", False),
    (WITH_INPLACE, "inplace", True),
    (yolo.Detect, "inplace", True),
    (yolo.BaseModel, "inplace", True),
    (yolo.BaseModel, "yaml_file", ""),
)


def network_of(content: Any) -> Record | None:
    """The record of the network in a file: the EMA where there is one, else the model."""
    if isinstance(content, Record):
        return content if content.address.startswith("models.yolo.") else None
    if not isinstance(content, Mapping):
        return None
    for key in ("ema", "model"):
        value = content.get(key)
        value = value[0] if isinstance(value, tuple | list) and value else value  # some releases add the update count
        if isinstance(value, Record):
            return value
    return None


def restore_network(record: Record) -> yolo.BaseModel:
    """The FP32 network in evaluation mode that a record describes.

    Raises:
        InputError: it is not a network of a known kind; the message starts with what is wrong.
    """
    network = _restore(record, {})
    if not isinstance(network, yolo.BaseModel):
        raise InputError(f"{record.address} is no network")
    layers = network._modules.get("model")
    if not isinstance(layers, nn.Sequential) or not len(layers):
        raise InputError(f"{record.address} has no layers")
    _complete_network(network, layers)
    return network.float().eval()


def _restore(record: Record, done: dict[int, nn.Module]) -> nn.Module:
    """The module of a record; a record met twice gives the same module."""
    if id(record) in done:
        return done[id(record)]
    kind = _today(record)
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    done[id(record)] = module
    state = {name: value for name, value in record.state.items() if _is_attribute(kind, name, value)}
    state["training"] = bool(record.state.get("training", False))
    module.__setstate__(state)
    for name, value in _children(record, "_parameters"):
        module.register_parameter(name, None if value is None else _as_parameter(value, record))
    for name, value in _children(record, "_buffers"):
        module.register_buffer(name, value)
    for name, value in _children(record, "_modules"):
        if value is not None and not isinstance(value, Record):
            raise InputError(f"{record.address}.{name} is {type(value).__name__}, not a layer")
        module.add_module(name, None if value is None else _restore(value, done))
    _complete_module(module)
    return module


def _today(record: Record) -> type[nn.Module]:
    """The class that stands for a record's address today."""
    if record.address not in MODULE_CLASSES:
        raise InputError(f"{record.address} is not a layer")
    members = dict(_children(record, "_modules"))
    kind = MODULE_CLASSES[record.address]
    if kind is common.Classify and "linear" not in members:
        return experimental.PooledClassify
    if kind is experimental.MixConv2d and _name(members.get("act")) == "LeakyReLU":
        return experimental.MixConv2dResidual
    if kind is yolo.DetectionModel:
        head = next(reversed(_layers(record).values()), None)
        return NETWORK_BY_HEAD.get(_name(head), kind)
    return kind


def _name(record: Any) -> str:
    return record.address.rpartition(".")[2] if isinstance(record, Record) else ""


def _layers(record: Record) -> dict[str, Any]:
    inner = dict(_children(record, "_modules")).get("model")
    return dict(_children(inner, "_modules")) if isinstance(inner, Record) else {}


def _children(record: Record, key: str) -> list[tuple[str, Any]]:
    """Parameters, buffers or submodules by name."""
    members = record.state.get(key)
    return [(str(name), value) for name, value in members.items()] if isinstance(members, Mapping) else []


def _as_parameter(value: Any, record: Record) -> nn.Parameter:
    if not isinstance(value, Tensor):
        raise InputError(f"a parameter of {record.address} is {type(value).__name__}, not a tensor")
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value, value.is_floating_point())


def _is_attribute(kind: type[nn.Module], name: str, value: Any) -> bool:
    """Whether an entry of a state is data of the layer: no hook, nothing that hides a method, no foreign object."""
    if name == "type":  # the layer's address, a string; it hides a method of torch by design
        return isinstance(value, str)
    if name.startswith("_") and name not in PRIVATE_DATA:
        return False
    return not callable(getattr(kind, name, None)) and _is_data(value)


def _is_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_data(item) for item in value.values())
    if isinstance(value, list | tuple | set):
        return all(_is_data(item) for item in value)
    return value is None or isinstance(value, int | float | str | range | Tensor | np.ndarray)


def _complete_module(module: nn.Module) -> None:
    """Supply what the release or the PyTorch of the file did not have."""
    for kind, name, value in MISSING:
        if isinstance(module, kind) and name not in module.__dict__:
            setattr(module, name, value)
    if isinstance(module, common.Conv):
        for name, absent in (("bn", None), ("act", nn.Identity())):  # fused files have no bn
            if name not in module._modules:
                module.register_module(name, absent)
    if isinstance(module, yolo.Detect):
        _complete_head(module)


def _complete_head(head: yolo.Detect) -> None:
    """Anchors as pixels are a cache today, not a buffer; caches of other releases lack half a cell."""
    head._buffers.pop("anchor_grid", None)
    for name in ("export", "dynamic"):
        head.__dict__.pop(name, None)
    for name in ("nc", "no", "nl", "na", "anchors", "stride"):
        if getattr(head, name, None) is None:
            raise InputError(f"its head has no attribute {name!r}")
    if "m" not in head._modules:  # release 1.0: the output convolutions are rows of the graph
        head.m = nn.ModuleList()
    if isinstance(head, yolo.Segment):
        head.detect = yolo.Detect.forward
    head._forget_grids()


def _complete_network(network: yolo.BaseModel, layers: nn.Sequential) -> None:
    """Description, names, strides and number of classes of a network whose layers are complete."""
    if any(not hasattr(layer, name) for layer in layers for name in ("i", "f")):
        raise InputError("its layers do not say where their input comes from")
    head = layers[-1]
    network.nc = _outputs(head)
    network.names = _numbered(getattr(network, "names", None), network.nc)
    stride = getattr(head, "stride", None)
    if not isinstance(stride, Tensor):
        stride = getattr(network, "stride", None)
    network.stride = stride.float() if isinstance(stride, Tensor) else torch.tensor([32.0])
    network.save = [int(index) for index in getattr(network, "save", [])]
    network.yaml = _described(network, layers)


def _outputs(head: nn.Module) -> int:
    """Number of classes that a head tells apart."""
    if isinstance(head, common.Classify):
        return head.linear.out_features
    if isinstance(head, experimental.PooledClassify):
        return head.conv.out_channels
    if isinstance(head, yolo.Detect):
        return int(head.nc)
    raise InputError(f"its last layer {type(head).__name__} is no head")


def _numbered(names: Any, count: int) -> dict[int, str]:
    """Class names by number; old releases have a list, some none."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names or map(str, range(count)))
    return {int(number): str(name) for number, name in pairs}


def _described(network: yolo.BaseModel, layers: nn.Sequential) -> dict[str, Any]:
    """The model YAML, with the keys that today's graphs need to be the same network."""
    kept = network.__dict__.pop("md", None)  # its name in release 1.0
    description = dict(getattr(network, "yaml", None) or kept or describe_layers(layers))
    if not description:
        return description
    description["nc"] = network.nc
    first = next((m for m in layers[0].modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None:
        description["ch"] = first.in_channels // (4 if isinstance(layers[0], common.Focus) else 1)
    if "activation" not in description and (found := _activations(layers)):
        description["activation"] = found
    return description


def _activations(layers: nn.Sequential) -> dict[str, str]:
    """Activation per block where it is not the SiLU of today's blocks, as the YAML key of that name takes it."""
    found: dict[str, str] = {}
    for module in layers.modules():
        act = module._modules.get("act")
        for kind in (common.Conv, common.BottleneckCSP):
            if isinstance(module, kind) and act is not None and not isinstance(act, nn.SiLU | nn.Identity):
                found.setdefault(kind.__name__, _expression(act))
    return found


def _expression(act: nn.Module) -> str:
    """The text that builds an activation: nn.LeakyReLU(0.1)."""
    prefix = "nn." if type(act).__module__.startswith("torch.") else ""
    argument = act.negative_slope if isinstance(act, nn.LeakyReLU) else ""
    return f"{prefix}{type(act).__name__}({argument})"
