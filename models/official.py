"""Networks from pickled modules: of any release of YOLOv5, of Multi-YOLOv5, and of programs that save our networks.

Class addresses of old releases map to today's classes, and attributes that old releases or old versions of PyTorch did
not have get their defaults. Whatever could run code (hooks, replaced methods) is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from models import common, experimental, fork_heads, semantic_heads, torchvision_files, yolo
from models.classifiers import describe_layers
from models.pickled_values import Record
from utils import activations
from utils.core.errors import InputError
from utils.imaging.semantic_classes import SemanticClasses

COMMON = (
    common.Conv, common.DWConv, common.DWConvTranspose2d, common.TransformerLayer, common.TransformerBlock,
    common.Bottleneck, common.BottleneckCSP, common.CrossConv, common.C3, common.C3x, common.C3TR, common.C3SPP,
    common.C3Ghost, common.SPP, common.SPPF, common.Focus, common.GhostConv, common.GhostBottleneck, common.Contract,
    common.Expand, common.Concat, common.Proto, common.Classify, experimental.Flatten,
)  # fmt: skip
EXPERIMENTAL = (
    experimental.Sum, experimental.MixConv2d, experimental.ConvPlus, common.CrossConv, common.GhostConv,
    common.GhostBottleneck, experimental.C3Cross, experimental.Flatten, experimental.MixConv2dResidual,
    experimental.PooledClassify,
)  # fmt: skip
NETWORK_PARTS = (
    yolo.Detect, yolo.Segment, yolo.DetectionModel, yolo.SegmentationModel, yolo.ClassificationModel, yolo.JointModel,
    yolo.SemanticModel,
)  # fmt: skip
SEMANTIC = tuple(
    kind
    for kind in vars(semantic_heads).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == semantic_heads.__name__
)
ACTIVATIONS = (
    activations.SiLU, activations.Hardswish, activations.Mish, activations.MemoryEfficientMish, activations.FReLU,
    activations.AconC, activations.MetaAconC,
)  # fmt: skip
TORCH_LAYERS = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.LayerNorm, nn.Linear, nn.MultiheadAttention, nn.Identity,
    nn.Flatten, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.Sequential, nn.ModuleList, nn.SiLU, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid,
    nn.Tanh, nn.Hardtanh, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.PReLU, nn.Mish, nn.Softplus, nn.LogSigmoid,
    nn.GroupNorm, nn.InstanceNorm2d, nn.AdaptiveMaxPool2d, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d,
    nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
    nn.Softmax, nn.Softmax2d, nn.Softsign,
)  # fmt: skip
IMAGE_TRANSFORMS = (  # attributes of classifiers; read but not restored
    *(f"torchvision.transforms.transforms.{name}" for name in ("Compose", "Normalize", "CenterCrop", "Resize")),
    "torchvision.transforms.transforms.ToTensor",
    "torchvision.transforms.functional.InterpolationMode",
    *(f"utils.augmentations.{name}" for name in ("CenterCrop", "LetterBox", "ToTensor")),
)
WRAPPERS = {  # modules around a network, with the attribute that holds it
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "models.common.AutoShape": "model",
    "models.common.autoShape": "model",
}
NMS_ADDRESS = "models.common.NMS"  # a last layer that releases up to 5.0 could append
CLASSES_ADDRESS = "utils.imaging.semantic_classes.SemanticClasses"


def _build_class_table() -> dict[str, type[nn.Module]]:
    """Class for every address that an official checkpoint may contain."""
    modules: dict[str, tuple[type[nn.Module], ...]] = {
        "models.common": COMMON,
        "models.experimental": EXPERIMENTAL,
        "models.semantic_heads": SEMANTIC,
        "models.yolo": NETWORK_PARTS,
        "utils.activations": ACTIVATIONS,
    }
    table = {f"{module}.{kind.__name__}": kind for module, kinds in modules.items() for kind in kinds}
    table |= {f"{kind.__module__}.{kind.__name__}": kind for kind in TORCH_LAYERS}
    table["models.yolo.Model"] = yolo.DetectionModel  # name up to release 6.1
    table["torch.nn.modules.batchnorm.SyncBatchNorm"] = nn.BatchNorm2d  # its weights, without its process group
    table["models.experimental.C3"] = experimental.C3Cross
    for name in ("NonDynamicallyQuantizableLinear", "_LinearWithBias"):  # the second up to torch 1.8
        table[f"torch.nn.modules.linear.{name}"] = NonDynamicallyQuantizableLinear
    return table


MODULE_CLASSES = _build_class_table()
ADDRESSES = (
    *(*MODULE_CLASSES, *IMAGE_TRANSFORMS, *WRAPPERS, *torchvision_files.ADDRESSES, NMS_ADDRESS, CLASSES_ADDRESS),
    *(address for address in fork_heads.ADDRESSES if address not in MODULE_CLASSES),
)
SAFE_GLOBALS = [(kind, address) for address, kind in MODULE_CLASSES.items()]  # for torch.serialization.add_safe_globals
MAX_HEAD = 100_000  # classes, levels, anchors
PRIVATE_ATTRIBUTES = ("_reversed_padding_repeated_twice", "_qkv_same_embed_dim")  # of Conv2d and MultiheadAttention
OWN_ATTRIBUTES = ("task", "semantic", "layer_table", "checkpoint_activations")  # of BaseModel, not in official files
PARTS: dict[type[nn.Module], str] = {  # children of blocks that `forward` uses; of subclasses too
    yolo.Detect: "m proto",
    yolo.BaseModel: "model",
    common.Conv: "conv bn act",
    common.Bottleneck: "cv1 cv2",
    common.BottleneckCSP: "cv1 cv2 cv3 cv4 bn act m",
    common.C3: "cv1 cv2 cv3 m",
    common.CrossConv: "cv1 cv2",
    common.Focus: "conv",
    common.GhostBottleneck: "conv shortcut",
    common.GhostConv: "cv1 cv2",
    common.SPP: "cv1 cv2 m",
    common.SPPF: "cv1 cv2 m",
    common.Proto: "cv1 upsample cv2 cv3",
    common.Classify: "conv pool drop linear",
    common.Concat: "",
}
INPLACE_ACTIVATIONS = (nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.Mish)
NETWORK_BY_HEAD = {"Segment": yolo.SegmentationModel, "Classify": yolo.ClassificationModel}
DEFAULTS: tuple[tuple[Any, str, Any], ...] = (  # (class, attribute that old files lack, value)
    (nn.Upsample, "recompute_scale_factor", None),
    (nn.MultiheadAttention, "batch_first", False),
    (INPLACE_ACTIVATIONS, "inplace", True),
    (yolo.Detect, "inplace", True),
    (yolo.BaseModel, "inplace", True),
    (yolo.BaseModel, "yaml_file", ""),
)


def find_network_record(content: Any) -> Record | None:
    """The network's record in a checkpoint: the EMA if present, else the model; None if there is neither."""
    if isinstance(content, Record):
        content = _unwrap(content)
        is_network = content.address.startswith("models.yolo.") or torchvision_files.is_torchvision(content)
        return content if is_network else None
    if not isinstance(content, Mapping):
        return None
    for key in ("ema", "model"):
        value = content.get(key)
        value = value[0] if isinstance(value, tuple | list) and value else value  # (model, updates) in some releases
        if isinstance(value, Record):
            return _unwrap(value)
    return None


def _unwrap(record: Record) -> Record:
    """The network in modules around it."""
    while (name := WRAPPERS.get(record.address)) is not None:
        inner = dict(_get_members(record, "_modules")).get(name)
        if not isinstance(inner, Record):
            break
        record = inner
    return record


def restore_network(record: Record) -> yolo.BaseModel:
    """Build the FP32 network of a record, in evaluation mode, and run it on meta tensors.

    Raises:
        InputError: not a network of a known kind.
        Exception: any other, if its state is damaged.
    """
    if torchvision_files.is_torchvision(record):
        classifier, names = torchvision_files.restore_torchvision(record)
        classifier.names = _to_names_dict(names, classifier.nc)
        return classifier
    restored: dict[int, nn.Module] = {}
    for layer in _find_layers(record):
        if layer.address in fork_heads.HEADS:
            restored[id(layer)] = _restore_fork_head(layer, record)
    network = _restore_module(record, restored)
    if not isinstance(network, yolo.BaseModel):
        raise InputError(f"{record.address} is not a network")
    layers = network._modules.get("model")
    if not isinstance(layers, nn.Sequential) or not len(layers):
        raise InputError(f"{record.address} has no layers")
    _complete_network(network, layers, record.state.get("semantic"))
    network.float().eval().probe_layers()
    if isinstance(network.head, yolo.Detect):
        network.head.fill_grids()
    return network


def list_unknown_parts(network: nn.Module) -> list[str]:
    """Layers with parameters that a fork added to blocks of YOLOv5, as "C3.att"; nothing uses them, as in YOLOv5."""
    unknown = set()
    for module in network.modules():
        known = next((names.split() for kind, names in PARTS.items() if isinstance(module, kind)), None)
        children = [] if known is None else [(n, c) for n, c in module.named_children() if n not in known]
        unknown |= {
            f"{type(module).__name__}.{name}" for name, child in children if any(True for _ in child.parameters())
        }
    return sorted(unknown)


def _find_layers(record: Record) -> list[Record]:
    """The records of a network's layers; a last layer of non-maximum suppression is removed."""
    layers = dict(_get_members(record, "_modules")).get("model")
    members = layers.state.get("_modules") if isinstance(layers, Record) else None
    if not isinstance(members, dict):
        return []
    for name, layer in list(members.items())[-1:]:
        if isinstance(layer, Record) and layer.address == NMS_ADDRESS:
            del members[name]
    return [layer for layer in members.values() if isinstance(layer, Record)]


def _restore_fork_head(record: Record, network: Record) -> nn.Module:
    """The semantic head of Multi-YOLOv5, with its place in the network."""
    head: Any = fork_heads.restore_head(record, network.state.get("yaml"))
    for name in ("i", "f"):
        setattr(head, name, record.state.get(name))
    return head


def _restore_module(record: Record, restored: dict[int, nn.Module]) -> nn.Module:
    """Build the module of a record; records that occur twice give the same module."""
    if id(record) in restored:
        return restored[id(record)]
    kind = _find_class(record)
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    restored[id(record)] = module
    state = {name: value for name, value in record.state.items() if _is_attribute(kind, name, value)}
    state["training"] = bool(record.state.get("training", False))
    module.__setstate__(state)
    for name, value in _get_members(record, "_parameters"):
        module.register_parameter(name, None if value is None else _to_parameter(value, record))
    for name, value in _get_members(record, "_buffers"):
        if name != "anchor_grid":  # a cache of heads, a buffer up to release 5.0
            module.register_buffer(name, value)
    for name, value in _get_members(record, "_modules"):
        if value is not None and not isinstance(value, Record):
            raise InputError(f"{record.address}.{name} is {type(value).__name__}, not a layer")
        module.add_module(name, None if value is None else _restore_module(value, restored))
    _complete_module(module)
    return module


def _find_class(record: Record) -> type[nn.Module]:
    """Today's class for a record."""
    if record.address not in MODULE_CLASSES:
        raise InputError(f"{record.address} is not a layer")
    members = dict(_get_members(record, "_modules"))
    kind = MODULE_CLASSES[record.address]
    if kind is common.Classify and "linear" not in members:
        return experimental.PooledClassify
    if kind is experimental.MixConv2d and _get_class_name(members.get("act")) == "LeakyReLU":
        return experimental.MixConv2dResidual
    if kind is yolo.DetectionModel:
        layers = _find_layers(record)
        if any(layer.address in fork_heads.HEADS for layer in layers):
            return yolo.JointModel
        return NETWORK_BY_HEAD.get(_get_class_name(layers[-1] if layers else None), kind)
    return kind


def _get_class_name(record: Any) -> str:
    return record.address.rpartition(".")[2] if isinstance(record, Record) else ""


def _get_members(record: Any, key: str) -> list[tuple[str, Any]]:
    """Parameters, buffers or submodules of a record, with their names."""
    if not isinstance(record, Record):
        return []
    members = record.state.get(key)
    return [(str(name), value) for name, value in members.items()] if isinstance(members, Mapping) else []


def _to_parameter(value: Any, record: Record) -> nn.Parameter:
    if not isinstance(value, Tensor):
        raise InputError(f"a parameter of {record.address} is {type(value).__name__}, not a tensor")
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value, value.is_floating_point())


def _is_attribute(kind: type[nn.Module], name: str, value: Any) -> bool:
    """Whether an entry of a state is plain data: not a hook, not in place of a method, not a foreign object."""
    if name == "type":  # the layer's class address, which replaces a method of torch
        return isinstance(value, str)
    if name in OWN_ATTRIBUTES or (name.startswith("_") and name not in PRIVATE_ATTRIBUTES):
        return False
    return not callable(getattr(kind, name, None)) and _is_data(value)


def _is_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_data(item) for item in value.values())
    if isinstance(value, list | tuple | set):
        return all(_is_data(item) for item in value)
    return value is None or isinstance(value, int | float | str | range | Tensor | np.ndarray)


def _complete_module(module: nn.Module) -> None:
    """Set attributes that the file's release of YOLOv5 or PyTorch did not have."""
    for kind, name, value in DEFAULTS:
        if isinstance(module, kind) and name not in module.__dict__:
            setattr(module, name, value)
    if isinstance(module, common.Conv):
        for name, default in (("bn", None), ("act", nn.Identity())):  # fused files have no bn
            if name not in module._modules:
                module.register_module(name, default)
    if isinstance(module, yolo.Detect):
        _complete_head(module)


def _complete_head(head: yolo.Detect) -> None:
    """Reset caches: the `grid` of old releases has another offset."""
    for name in ("export", "dynamic"):
        head.__dict__.pop(name, None)
    for name in ("nc", "no", "nl", "na"):
        if not isinstance(getattr(head, name, None), int) or not 0 < getattr(head, name) <= MAX_HEAD:
            raise InputError(f"the head has no valid {name!r}")
    for name, shape in (("anchors", (head.nl, head.na, 2)), ("stride", (head.nl,))):
        if not isinstance(value := getattr(head, name, None), Tensor) or value.shape != shape:
            raise InputError(f"the head has no {name!r} of shape {shape}")
    if "m" not in head._modules:  # release 1.0: the output convolutions are rows of the graph
        head.m = nn.ModuleList()
    if isinstance(head, yolo.Segment):
        head.detect = yolo.Detect.forward
    head._reset_grids()


def _complete_network(network: yolo.BaseModel, layers: nn.Sequential, classes: Any) -> None:
    """Set model YAML, class names, strides and number of classes of a network with complete layers.

    Args:
        classes: record of the classes of a semantic mask, or None.
    """
    network.save = _list_saved_layers(layers)
    if isinstance(network, yolo.JointModel | yolo.SemanticModel):
        network._set_up_semantic_head()
        if isinstance(classes, Record):
            network.semantic = _restore_classes(classes, network.semantic_head.nc)
    head = network.head
    network.nc = _get_num_classes(head)
    network.names = _to_names_dict(getattr(network, "names", None), network.nc)
    stride = getattr(head, "stride", None)
    if not isinstance(stride, Tensor):
        stride = getattr(network, "stride", None)
    network.stride = stride.float() if isinstance(stride, Tensor) else torch.tensor([32.0])
    if network.stride.ndim != 1 or not all(1 <= value <= yolo.STRIDE_PROBE for value in network.stride.tolist()):
        raise InputError(f"strides {network.stride.tolist()} are not those of a network")
    network.yaml = _build_yaml(network, layers)


def _restore_classes(record: Record, count: int) -> SemanticClasses:
    """The classes of a semantic mask."""
    classes = SemanticClasses.from_dict(record.state)
    if len(classes) != count:
        raise InputError(f"{len(classes)} classes of the semantic mask, but its head has {count}")
    return classes


def _list_saved_layers(layers: nn.Sequential) -> list[int]:
    """Indices of the layers whose output is needed after the next layer."""
    saved: set[int] = set()
    for index, layer in enumerate(layers):
        origin: Any = getattr(layer, "f", None)
        origins = origin if isinstance(origin, list) else [origin]
        if not isinstance(getattr(layer, "i", None), int) or not all(_is_earlier(i, index) for i in origins):
            raise InputError("the layers do not name their inputs")
        saved.update(i % index for i in origins if i != -1)
    return sorted(saved)


def _is_earlier(origin: Any, index: int) -> bool:
    """Whether an entry of `f` is -1, for the previous layer, or one before layer `index`."""
    return type(origin) is int and (origin == -1 or -index <= origin < index)


def _get_num_classes(head: nn.Module) -> int:
    if isinstance(head, common.Classify):
        return len(head.linear.weight)
    if isinstance(head, experimental.PooledClassify):
        return len(head.conv.weight)
    if isinstance(head, yolo.Detect | semantic_heads.SemanticHead):
        return int(head.nc)
    raise InputError(f"the last layer, {type(head).__name__}, is not a head")


def _to_names_dict(names: Any, count: int) -> dict[int, str]:
    """Class names by number; old releases store a list or no names. Classes without a name get their number."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names or ())
    return {number: str(number) for number in range(count)} | {int(number): str(name) for number, name in pairs}


def _build_yaml(network: yolo.BaseModel, layers: nn.Sequential) -> dict[str, Any]:
    """The model YAML, with the keys that are needed today to build the same network; empty if unknown."""
    old_yaml = network.__dict__.pop("md", None)  # attribute name in release 1.0
    config = dict(getattr(network, "yaml", None) or old_yaml or describe_layers(layers))
    if not config:
        return config
    config["nc"] = network.nc
    first = next((m for m in layers[0].modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None:
        config["ch"] = first.in_channels // (4 if isinstance(layers[0], common.Focus) else 1)
    if "activation" not in config and (activation := _describe_activations(layers)):
        config["activation"] = activation
    return config


def _describe_activations(layers: nn.Sequential) -> dict[str, str]:
    """Activation per block where it is not SiLU, as the `activation` key of model YAMLs."""
    per_block: dict[str, str] = {}
    for module in layers.modules():
        act = module._modules.get("act")
        for kind in (common.Conv, common.BottleneckCSP):
            if isinstance(module, kind) and act is not None and not isinstance(act, nn.SiLU | nn.Identity):
                per_block.setdefault(kind.__name__, _to_expression(act))
    return per_block


def _to_expression(act: nn.Module) -> str:
    """The expression of an activation, such as nn.LeakyReLU(0.1)."""
    prefix = "nn." if type(act).__module__.startswith("torch.") else ""
    argument = act.negative_slope if isinstance(act, nn.LeakyReLU) else ""
    return f"{prefix}{type(act).__name__}({argument})"
