"""From the rows of a model YAML to a module graph; nothing in the file is executed, errors name file and row.

Grammar: `nc`, `anchors` (one list w, h, ... per level in pixels, or a number per level), `depth_multiple`,
`width_multiple`, `backbone`, `head`; optional `ch`, `inplace`, `channel_multiple`, `activation`, `n_segcls`, the
number of classes of a semantic head (without boxes it stands for `nc` too), and `cutoff`, the layers that a classifier
keeps. A row is [from, number, layer, arguments]. `from` is -1 for the row before, an earlier row's index or a list of
these; an empty list means all earlier rows that are output maps, last first. Arguments may use the names nc, n_segcls,
na, no, anchors, arithmetic, None, and activations such as `nn.LeakyReLU(0.1)`.

`activation: nn.LeakyReLU(0.1)` sets the activation of every Conv; a mapping such as `{Conv: nn.Hardswish(),
BottleneckCSP: nn.LeakyReLU(0.1)}` sets it per block that owns one, a subclass's own entry before its parent's.
"""

from __future__ import annotations

import ast
import copy
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from models.common import Conv
from models.layers import LayerSpec, RowContext, layer_spec, scaled_repeats
from utils import activations
from utils.core.errors import InputError
from utils.core.logging import LOGGER

MODELS_DIR = Path(__file__).resolve().parent
SUBFOLDERS = ("", "hub", "segment", "semantic", "legacy")
KNOWN_KEYS = (
    "nc",
    "n_segcls",
    "ch",
    "depth_multiple",
    "width_multiple",
    "channel_multiple",
    "anchors",
    "activation",
    "inplace",
    "backbone",
    "head",
    "cutoff",
    "yaml_file",
)


def find_model_yaml(name: str | Path) -> Path:
    """The file itself, or the shipped YAML of that name (`yolov5s`, `yolov5s.yaml`, `hub/yolov5s6.yaml`)."""
    path = Path(name)
    if path.is_file():
        return path
    with_suffix = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
    for folder in SUBFOLDERS:
        if (candidate := MODELS_DIR / folder / with_suffix).is_file():
            return candidate
    shipped = [p.stem for p in shipped_yamls()]
    near = get_close_matches(with_suffix.stem, shipped, n=3)
    hint = f"near: {', '.join(near)}" if near else "give the path of a file or a name under models/"
    raise InputError(f"{name}: no such model YAML; {hint}")


def shipped_yamls() -> list[Path]:
    """Every graph that comes with the project."""
    files = (p for folder in SUBFOLDERS for p in sorted((MODELS_DIR / folder).glob("*.yaml")))
    return [p for p in files if p.stem != "anchors"]


def load_model_yaml(cfg: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The checked contents of a model YAML, given by path, shipped name or as a mapping (which is copied).

    Raises:
        InputError: no such file, not YAML, or a key that is missing or has an impossible value.
    """
    if isinstance(cfg, Mapping):
        values: Any = copy.deepcopy(dict(cfg))
        source = str(values.get("yaml_file", "model YAML"))
    else:
        path = find_model_yaml(cfg)
        source = path.name
        values = _read_yaml(path)
        values["yaml_file"] = path.name
    _check_keys(values, source)
    if isinstance(values.get("anchors"), float):
        values["anchors"] = round(values["anchors"])
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the model YAML ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a model YAML; expected keys nc, anchors, backbone, head")
    return values


def _check_keys(values: dict[str, Any], source: str) -> None:
    """Raise InputError for impossible values, warn about unknown keys."""
    for key in values.keys() - set(KNOWN_KEYS):
        near = get_close_matches(str(key), KNOWN_KEYS, n=1)
        LOGGER.warning(f"{source}: key {key!r} is not used" + (f"; did you mean {near[0]!r}?" if near else ""))
    for key in ("backbone", "head"):
        if not isinstance(values.get(key), list):
            raise InputError(f"{source}: {key}: expected a list of rows [from, number, layer, arguments]")
    if not (values["backbone"] or values["head"]):
        raise InputError(f"{source}: backbone and head have no rows")
    if "n_segcls" in values:
        values.setdefault("nc", values["n_segcls"])
    for key in ("nc", "ch", "channel_multiple", "n_segcls"):
        value = values.get(key, None if key == "nc" else 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{source}: {key}: {value!r} is not a positive integer")
    for key in ("depth_multiple", "width_multiple"):
        value = values.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InputError(f"{source}: {key}: {value!r} is not a positive number")
    _check_anchors(values.get("anchors", 1), source)


def _check_anchors(anchors: Any, source: str) -> None:
    """Raise InputError unless `anchors` is a number or equally long lists of w, h pairs."""
    if isinstance(anchors, int | float) and not isinstance(anchors, bool) and anchors >= 1:
        return
    rows: list[Any] = anchors if isinstance(anchors, list) and anchors else [None]
    for level, row in enumerate(rows):
        sizes = row if isinstance(row, list) else []
        if not sizes or len(sizes) % 2 or not all(isinstance(v, int | float) and v >= 0 for v in sizes):
            raise InputError(f"{source}: anchors: level {level}: {row!r} is not a list of sizes w, h, w, h ...")
        if len(sizes) != len(rows[0]):
            raise InputError(f"{source}: anchors: level {level} has {len(sizes)} numbers, level 0 has {len(rows[0])}")


ARITHMETIC: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class _NotAValueError(ValueError):
    """The text is no expression of the grammar; it stays a string."""


def parse_value(text: Any, names: Mapping[str, Any]) -> Any:
    """A YAML argument as a value: expressions in strings are worked out, unknown words stay strings, lists recurse.

    Allowed are numbers, strings, booleans, None, lists, `names`, arithmetic on numbers, and calls of `nn` modules and
    of the project's activations with such arguments. Nothing is executed.
    """
    if isinstance(text, list):
        return [parse_value(item, names) for item in text]
    if not isinstance(text, str):
        return text
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, names)
    except (SyntaxError, _NotAValueError, RecursionError, MemoryError):
        return text
    except (ZeroDivisionError, TypeError) as error:
        raise ValueError(f"{text!r}: {error}") from error


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """Value of one node of an expression."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, names) for item in items]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_number(operand, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_number(left, names), _number(right, names))
        case ast.Call(func=func, args=args, keywords=keywords) if all(k.arg for k in keywords):
            module = _module_class(func)
            return module(*(_value(a, names) for a in args), **{str(k.arg): _value(k.value, names) for k in keywords})
    raise _NotAValueError


def _number(node: ast.AST, names: Mapping[str, Any]) -> int | float:
    value = _value(node, names)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotAValueError
    return value


def _module_class(node: ast.AST) -> type[nn.Module]:
    """The class that `nn.Name`, `Name` or `torch.nn.Name` stands for."""
    name = ast.unparse(node)
    found = getattr(nn, name.rpartition("nn.")[2], None) if name.startswith(("nn.", "torch.nn.")) else None
    found = found or getattr(activations, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise _NotAValueError
    return found


@dataclass(frozen=True)
class _Row:
    """One checked row; `sources` are the indices of earlier rows (-1: the image), `open` where the file has []."""

    index: int
    origin: int | list[int]
    open: bool
    sources: list[int]
    repeats: int
    name: Any
    args: list[Any]


def parse_graph(
    config: Mapping[str, Any], channels: int, layers: Mapping[str, LayerSpec]
) -> tuple[nn.Sequential, list[int]]:
    """Build the graph of a checked model YAML.

    Args:
        config: as `load_model_yaml` gives it.
        channels: of the image.
        layers: the layer table.

    Returns:
        The layers, each with `i` (index), `f` (from), `type` (class address) and `np` (parameters); and the sorted
        indices of the layers whose output a later, not adjacent row needs.

    Raises:
        InputError: "file: row 7: ..." for a row that cannot be built.
    """
    source = str(config.get("yaml_file", "model YAML"))
    modules: list[nn.Module] = []
    widths: list[int] = []
    kept: set[int] = set()
    for index, row in enumerate([*config["backbone"], *config["head"]]):
        try:
            checked = _check_row(index, row, widths, config)
            module, out = _build_row(checked, [channels, *widths], config, layers)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"{source}: row {index}: {error}") from error
        modules.append(module)
        widths.append(out)
        origins = checked.origin if isinstance(checked.origin, list) else [checked.origin]
        kept.update(index + origin if origin < 0 else origin for origin in origins if origin != -1)
    graph = nn.Sequential(*modules)
    _set_activations(graph, config.get("activation"), source)
    return graph, sorted(kept)


def _check_row(index: int, row: Any, widths: Sequence[int], config: Mapping[str, Any]) -> _Row:
    """The row with its inputs resolved; ValueError says what a row should be."""
    if not isinstance(row, list) or len(row) != 4:
        raise ValueError(f"expected [from, number, layer, arguments], got {row!r}")
    origin, repeats, name, args = row
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"number {repeats!r} is not a positive integer")
    if not isinstance(args, list):
        raise ValueError(f"arguments {args!r} are not a list")
    if is_open := origin == []:
        wanted = _map_channels(config)
        origin = [i if i < index - 1 else -1 for i in range(index - 1, -1, -1) if widths[i] == wanted]
        if not origin:
            raise ValueError(f"no earlier row gives the {wanted} channels of an output map")
    for position in origin if isinstance(origin, list) else [origin]:
        if isinstance(position, bool) or not isinstance(position, int) or not -index - (index == 0) <= position < index:
            choice = f"expected 0 to {index - 1}, or -1 for the one before" if index else "expected -1, the image"
            raise ValueError(f"from {position!r} is no earlier row; {choice}")
    positions = origin if isinstance(origin, list) else [origin]
    sources = [p if p >= 0 else index + p for p in positions]
    repeats = scaled_repeats(repeats, config.get("depth_multiple", 1.0))
    return _Row(index, origin, is_open, sources, repeats, name, args)


def _map_channels(config: Mapping[str, Any]) -> int:
    return _anchors_per_level(config) * (config["nc"] + 5)


def _anchors_per_level(config: Mapping[str, Any]) -> int:
    anchors = config.get("anchors", 0)
    return len(anchors[0]) // 2 if isinstance(anchors, list) else round(anchors)


def _build_row(
    row: _Row, widths: Sequence[int], config: Mapping[str, Any], layers: Mapping[str, LayerSpec]
) -> tuple[nn.Module, int]:
    """The module of a row and its output channels; `widths` starts with the image's."""
    spec = layer_spec(row.name, layers)
    inputs = [widths[i + 1] for i in row.sources]
    if len(inputs) > 1 and not spec.many_inputs:
        raise ValueError(f"{row.name} takes one map, from lists {len(inputs)}")
    anchors, num_anchors = config.get("anchors", []), _anchors_per_level(config)
    context = RowContext(
        inputs,
        config["nc"],
        num_anchors,
        anchors,
        config.get("width_multiple", 1.0),
        config.get("channel_multiple", 8),
        config.get("depth_multiple", 1.0),
        maps_ready=row.open,
    )
    names = {"nc": config["nc"], "na": num_anchors, "no": context.map_channels, "anchors": anchors}
    names |= {key: config[key] for key in ("n_segcls",) if key in config}
    args = [parse_value(arg, names) for arg in row.args]
    try:
        args, out = spec.rule(args, context)
        module = _construct(spec, args, row.repeats)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{row.name} wants {spec.usage()}, got {row.args}: {error}") from error
    kind = f"{spec.module.__module__}.{spec.module.__qualname__}"
    parameters = sum(p.numel() for p in module.parameters())
    for attribute, value in (("i", row.index), ("f", row.origin), ("type", kind), ("np", parameters)):
        setattr(module, attribute, value)
    return module, out


def _construct(spec: LayerSpec, args: list[Any], repeats: int) -> nn.Module:
    """The layer, or `repeats` of it in a row where it does not repeat inside."""
    if spec.repeats_inside:
        args, repeats = [*args[:2], repeats, *args[2:]], 1
    inspect.signature(spec.module).bind(*args)
    modules = [spec.module(*args) for _ in range(repeats)]
    return modules[0] if repeats == 1 else nn.Sequential(*modules)


def _set_activations(graph: nn.Module, wanted: Any, source: str) -> None:
    """Give the blocks of this graph, and of no other, the activations that the YAML's `activation` asks for."""
    per_block = wanted if isinstance(wanted, Mapping) else {"Conv": wanted}
    chosen = {block: _activation(text, source) for block, text in per_block.items() if text is not None}
    common_default = copy.deepcopy(Conv.default_act)
    for module in graph.modules():
        own = module._modules.get("act")
        if own is None or (isinstance(module, Conv) and own is not Conv.default_act):
            continue  # no activation, or one that the row itself names
        blocks = [kind.__name__ for kind in type(module).__mro__ if kind.__name__ in chosen]
        if blocks:
            module.act = chosen[blocks[0]]
        elif isinstance(module, Conv):
            module.act = common_default


def _activation(text: Any, source: str) -> nn.Module:
    """The module that an `activation` expression stands for."""
    try:
        value = parse_value(text, {})
    except ValueError as error:
        raise InputError(f"{source}: activation: {error}") from error
    if not isinstance(value, nn.Module):
        raise InputError(f"{source}: activation: {text!r} is no activation; write it as nn.LeakyReLU(0.1) or SiLU()")
    return value
