"""Semantic heads in checkpoints of Multi-YOLOv5 (github.com/TomMao23/multiyolov5), a fork of YOLOv5 5.0.

Its heads compute what those of `models.semantic_heads` do, but name and group their layers differently. The network is
built from the model YAML in the file, and every convolution of the head finds its weights by what it is: the block that
contains it, its shape and dilation, the convolutions before and after it, and among equals the order of scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models import semantic_heads
from models.pickled_values import Record
from models.yolo import JointModel
from utils.core.errors import InputError

HEADS = tuple(f"models.yolo.{name}" for name in semantic_heads.SEMANTIC_HEADS)
CONTEXT_BLOCKS = ("RFB1", "RFB2", "ASPP", "ASPPs")
BLOCKS = ("C3", "C3SPP", "SPP", "Bottleneck", "PyramidPooling", "FFM", "ARM", *CONTEXT_BLOCKS)
ADDRESSES = (*HEADS, *(f"models.common.{name}" for name in (*BLOCKS, "Attention", "DAPPM")))
NORMS = ("BatchNorm2d", "SyncBatchNorm", "PooledNorm")
MAX_DEPTH, MAX_LAYERS = 20, 500  # in a block; the largest has 12
Signature = tuple[Any, ...]
Rank = tuple[float, float, float]
NO_RANK: Rank = (0.0, 0.0, 0.0)


@dataclass
class Unit:
    """A convolution with the batch norm after it.

    Attributes:
        conv, norm: layers or their records.
        signature: shape of the weights, dilation, and whether there are a bias and a batch norm.
        chain: signatures of the units of the innermost Sequential around it, in order; and its place among them.
        rank: scale, width and number in a name of the layers around it, to order units that are otherwise equal.
    """

    conv: Any
    norm: Any
    signature: Signature
    chain: list[Signature]
    place: int
    rank: Rank

    @property
    def context(self) -> str:
        return repr((self.chain, self.place))


@dataclass
class Block:
    """A block: its own units and the blocks in it, in the order of the file."""

    kind: str
    units: list[Unit] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    rank: Rank = NO_RANK

    @property
    def signature(self) -> Signature:
        inner = sorted(repr(block.signature) for block in self.blocks)
        return self.kind, *sorted(repr(unit.signature) for unit in self.units), *inner

    @property
    def context(self) -> str:
        return ""


def restore_head(record: Record, yaml: Any) -> nn.Module:
    """The semantic head of a record, from the model YAML of its network.

    Raises:
        InputError: the YAML has no such head, or its convolutions are others.
    """
    kind = record.address.rpartition(".")[2]
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        head: Any = JointModel(yaml).semantic_head if isinstance(yaml, dict) else None
    if type(head).__name__ != kind:
        raise InputError(f"the model YAML in the file has no {kind}")
    source, target = Block(kind), Block(kind)
    _collect(record, source, None, NO_RANK)
    _collect(head, target, None, NO_RANK)
    _transfer_block(source, target)
    network_head: nn.Module = head.requires_grad_(False)
    return network_head


def _collect(node: Any, block: Block, chain: list[Signature] | None, rank: Rank, depth: int = 0) -> None:
    """Add the units and blocks below a layer or record.

    Args:
        chain: of the Sequential around the layer; None if there is none in the block.
    """
    children = list(_iter_children(node))
    if depth > MAX_DEPTH or len(block.units) + len(block.blocks) + len(children) > MAX_LAYERS:
        raise InputError("the semantic head has too many layers")
    for position, (name, child) in enumerate(children):
        kind = _get_kind(child)
        if kind == "Conv2d":
            after = children[position + 1][1] if position + 1 < len(children) else None
            norm = after if _get_kind(after) in NORMS else None
            unit_chain = [] if chain is None else chain
            unit = Unit(child, norm, _get_signature(child, norm), unit_chain, len(unit_chain), rank)
            unit_chain.append(unit.signature)
            block.units.append(unit)
        elif kind in BLOCKS:
            block.blocks.append(Block(kind, rank=rank))
            _collect(child, block.blocks[-1], None, NO_RANK, depth + 1)
        else:
            inner_chain = [] if chain is None and kind == "Sequential" else chain
            _collect(child, block, inner_chain, _update_rank(rank, name, child), depth + 1)


def _update_rank(rank: Rank, name: str, node: Any) -> Rank:
    """The rank of layers in a record; layers of our own heads are in its order.

    It consists of the largest upsampling factor or pooled size, the input channels of a context block, and the number
    in the record's name, such as 16 of scale16.
    """
    if not isinstance(node, Record):
        return rank
    digits = "" if name.isdigit() else "".join(c for c in name if c.isdecimal())[:9]
    scale, width, number = rank[0], rank[1], max(rank[2], float(digits or 0))
    for _, child in _iter_children(node):
        for key in ("scale_factor", "output_size"):
            value = _get_value(child, key)
            value = value[0] if isinstance(value, tuple) and value else value
            scale = max(scale, float(value)) if isinstance(value, int | float) else scale
        if _get_kind(child) in CONTEXT_BLOCKS:
            block = Block("")
            _collect(child, block, None, NO_RANK, MAX_DEPTH // 2)
            width = max([width, *(float(unit.signature[0][1]) for unit in block.units)])
    return scale, width, number


def _iter_children(node: Any) -> Iterator[tuple[str, Any]]:
    """Layers directly in a layer or record, in the order of the file."""
    members = node.state.get("_modules") if isinstance(node, Record) else getattr(node, "_modules", None)
    if isinstance(members, dict):
        yield from ((str(name), child) for name, child in members.items() if child is not None)


def _get_kind(node: Any) -> str:
    """Class name of a layer or record."""
    return node.address.rpartition(".")[2] if isinstance(node, Record) else type(node).__name__


def _get_value(node: Any, name: str) -> Any:
    """Attribute of a layer or record."""
    return node.state.get(name) if isinstance(node, Record) else getattr(node, name, None)


def _get_tensor(node: Any, name: str) -> Tensor | None:
    """Parameter or buffer of a layer or record."""
    for members in (_get_value(node, "_parameters"), _get_value(node, "_buffers")):
        if isinstance(members, dict) and isinstance(members.get(name), Tensor):
            return members[name]
    return None


def _get_signature(conv: Any, norm: Any) -> Signature:
    weight, dilation = _get_tensor(conv, "weight"), _get_value(conv, "dilation")
    if weight is None or weight.ndim != 4 or not isinstance(dilation, tuple):
        raise InputError("a convolution of the semantic head has no weights")
    return tuple(weight.shape), dilation, _get_tensor(conv, "bias") is not None, norm is not None


def _transfer_block(source: Block, target: Block) -> None:
    """Copy the weights of a block and of the blocks in it."""
    for unit_from, unit_to in _pair(source.units, target.units, source.kind):
        _transfer_unit(unit_from, unit_to)
    for block_from, block_to in _pair(source.blocks, target.blocks, source.kind):
        _transfer_block(block_from, block_to)


def _pair(sources: Sequence[Any], targets: Sequence[Any], kind: str) -> list[tuple[Any, Any]]:
    """Pairs of units or blocks of equal signatures; InputError if these differ.

    Among several with one signature the context decides, then the rank, then the order.
    """
    pairs: list[tuple[Any, Any]] = []
    groups, target_groups = _group(sources), _group(targets)
    if {key: len(items) for key, items in groups.items()} != {key: len(items) for key, items in target_groups.items()}:
        raise InputError(f"{kind} has other convolutions than that of Multi-YOLOv5")
    for key, equal in groups.items():
        others = target_groups[key]
        in_context = sorted(item.context for item in equal) == sorted(item.context for item in others)
        first, second = (
            sorted(items, key=lambda item: (item.context if in_context else "", item.rank)) for items in (equal, others)
        )
        pairs.extend(zip(first, second, strict=True))
    return pairs


def _group(items: Sequence[Any]) -> dict[str, list[Any]]:
    """Units or blocks by signature."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(repr(item.signature), []).append(item)
    return groups


def _transfer_unit(source: Unit, target: Unit) -> None:
    """Copy weights, bias, and statistics and constants of the batch norm."""
    for layer_from, layer_to in ((source.conv, target.conv), (source.norm, target.norm)):
        if layer_to is None:
            continue
        for name, tensor in layer_to.state_dict(keep_vars=True).items():
            value = _get_tensor(layer_from, name)
            if value is None or value.shape != tensor.shape:
                raise InputError(f"{_get_kind(layer_from)} of the semantic head has no {name!r} of its size")
            tensor.data.copy_(value)
        for name in ("eps", "momentum"):
            if isinstance(value := _get_value(layer_from, name), float):
                setattr(layer_to, name, value)
