"""Model YAML parser. Nothing in the file is executed; errors name file and row.

Keys: `nc`, `anchors` (one list [w, h, ...] per level in pixels, or the number of anchors per level), `depth_multiple`,
`width_multiple`, `backbone`, `head`. Optional keys: `ch`, `inplace`, `channel_multiple`, `activation`, `n_segcls` (the
number of classes of a semantic head; without boxes also that of `nc`) and `cutoff` (the number of layers of a
classifier). A row is [from, number, layer, arguments]. `from` is -1 for the previous row, the index of an earlier row
or a list of these; an empty list means all earlier rows of raw predictions, last first. Arguments may contain the names
nc, n_segcls, na, no and anchors, arithmetic, None, and activations such as `nn.LeakyReLU(0.1)`.

`activation: nn.LeakyReLU(0.1)` sets the activation of every Conv. A mapping such as `{Conv: nn.Hardswish(),
BottleneckCSP: nn.LeakyReLU(0.1)}` sets it per block; the entry of a subclass precedes that of its base class.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from models.build_limits import BuildLimits
from models.common import Conv
from models.layers import LayerSpec, RowContext, find_layer_spec, find_torch_layer, scale_repeats
from utils import activations
from utils.core.errors import InputError
from utils.core.limits import check_limit
from utils.core.logging import LOGGER
from utils.core.yaml_files import read_yaml

MODELS_DIR = Path(__file__).resolve().parent
SUBFOLDERS = ("", "hub", "segment", "semantic", "legacy")
MAX_ROWS = 2_000  # the largest shipped network has 43
MAX_REPEATS = 10_000
MAX_COUNT = 100_000  # classes, channels
MAX_SIDE = 1e6  # of an anchor, pixels
MAX_EXPRESSION = 1_000  # characters
MAX_ARGUMENTS = 1_000  # values in a row
MAX_SHOWN = 120  # characters of a value in a message
MAX_REASON = 200  # characters of a reason in a message
MAX_WARNINGS = 10
COUNTS = {  # keys whose value is a positive integer, with the unit
    "nc": "classes",
    "ch": "channels",
    "channel_multiple": "channels",
    "n_segcls": "classes",
    "cutoff": "layers",
}
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
    """Find a model YAML by path or shipped name (`yolov5s`, `yolov5s.yaml`, `hub/yolov5s6.yaml`)."""
    path = Path(name)
    if path.is_file():
        return path
    with_suffix = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
    for folder in SUBFOLDERS:
        if (candidate := MODELS_DIR / folder / with_suffix).is_file():
            return candidate
    near = get_close_matches(with_suffix.stem, [p.stem for p in list_model_yamls()], n=3)
    hint = f"near: {', '.join(near)}" if near else "use the path of a file or a name under models/"
    raise InputError(f"{name}: no such model YAML; {hint}")


def list_model_yamls() -> list[Path]:
    """Paths of all shipped model YAMLs."""
    files = (p for folder in SUBFOLDERS for p in sorted((MODELS_DIR / folder).glob("*.yaml")))
    return [p for p in files if p.stem != "anchors"]


def load_model_yaml(cfg: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Load and validate a model YAML, named by path or shipped name, or a mapping, which is copied.

    Raises:
        InputError: no such file, not YAML, or a key is missing or invalid.
    """
    if isinstance(cfg, Mapping):
        values: Any = copy.deepcopy(dict(cfg))
        source = _name_source(values)
        if source != values.get("yaml_file"):
            values.pop("yaml_file", None)
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
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a model YAML; expected keys nc, anchors, backbone, head")
    return values


def _name_source(values: Mapping[str, Any]) -> str:
    """Name of a model YAML for messages."""
    name = values.get("yaml_file")
    return name if isinstance(name, str) and name.isprintable() and 0 < len(name) <= MAX_SHOWN else "model YAML"


def _check_keys(values: dict[str, Any], source: str) -> None:
    """Raise InputError for invalid values, warn about unknown keys."""
    for key in sorted(map(str, values.keys() - set(KNOWN_KEYS)))[:MAX_WARNINGS]:
        near = get_close_matches(key, KNOWN_KEYS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        LOGGER.warning(f"{source}: unknown key {format_value(key)} ignored{hint}")
    for key in ("backbone", "head"):
        if not isinstance(values.get(key), list):
            raise InputError(f"{source}: {key}: expected a list of rows [from, number, layer, arguments]")
    if not (values["backbone"] or values["head"]):
        raise InputError(f"{source}: backbone and head have no rows")
    check_limit(source, "rows", len(values["backbone"]) + len(values["head"]), MAX_ROWS)
    if "n_segcls" in values:
        values.setdefault("nc", values["n_segcls"])
    for key, unit in COUNTS.items():
        value = values.get(key, None if key == "nc" else 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{source}: {key}: {format_value(value)} is not a positive integer")
        check_limit(f"{source}: {key}", unit, value, MAX_COUNT)
    for key in ("depth_multiple", "width_multiple"):
        value = values.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"{source}: {key}: {format_value(value)} is not a positive number")
    _check_anchors(values.get("anchors", 1), source)


def _check_anchors(anchors: Any, source: str) -> None:
    """Raise InputError unless `anchors` is a number or equally long lists of w, h pairs."""
    if isinstance(anchors, int | float) and not isinstance(anchors, bool) and 1 <= anchors < math.inf:
        return
    rows: list[Any] = anchors if isinstance(anchors, list) and anchors else [None]
    for level, row in enumerate(rows):
        sizes = row if isinstance(row, list) else []
        if not sizes or len(sizes) % 2 or not all(isinstance(v, int | float) and 0 <= v <= MAX_SIDE for v in sizes):
            shown = format_value(row)
            raise InputError(f"{source}: anchors: level {level}: {shown} is not a list of sizes w, h, w, h, ...")
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
    """The text is not an expression of the grammar; it remains a string."""


def parse_value(text: Any, names: Mapping[str, Any]) -> Any:
    """Parse an argument of a row: evaluate expressions in strings and lists; unknown words remain strings.

    An expression consists of numbers, strings, booleans, None, lists, `names`, arithmetic on numbers, and calls of
    `nn` modules and this project's activations. No other code runs.
    """
    if isinstance(text, list):
        return [parse_value(item, names) for item in text]
    if not isinstance(text, str) or len(text) > MAX_EXPRESSION:
        return text
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body, names)
    except (SyntaxError, _NotAValueError, RecursionError, MemoryError):
        return text
    except InputError:  # over a limit
        raise
    except Exception as error:  # constructors of torch may raise any
        raise ValueError(f"{format_value(text)}: {format_reason(error)}") from error


def _evaluate(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """Value of a node of an expression."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_evaluate(item, names) for item in items]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_evaluate_number(operand, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_evaluate_number(left, names), _evaluate_number(right, names))
        case ast.Call(func=func, args=args, keywords=keywords) if all(k.arg for k in keywords):
            module = _find_module_class(func)
            kwargs = {str(k.arg): _evaluate(k.value, names) for k in keywords}
            return module(*(_evaluate(arg, names) for arg in args), **kwargs)
    raise _NotAValueError


def _evaluate_number(node: ast.AST, names: Mapping[str, Any]) -> int | float:
    value = _evaluate(node, names)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotAValueError
    return value


def _find_module_class(node: ast.AST) -> type[nn.Module]:
    """The class that `nn.Name`, `torch.nn.Name` or `Name` refers to."""
    name = ast.unparse(node)
    kind = find_torch_layer(name.removeprefix("torch.")) or getattr(activations, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise _NotAValueError
    return kind


@dataclass(frozen=True)
class _Row:
    """A validated row; `sources` are indices of earlier rows (-1: the image), `takes_preds` if `from` is []."""

    index: int
    origin: int | list[int]
    takes_preds: bool
    sources: list[int]
    repeats: int
    name: Any
    args: list[Any]


def parse_graph(
    config: Mapping[str, Any], channels: int, layers: Mapping[str, LayerSpec]
) -> tuple[nn.Sequential, list[int]]:
    """Build the layers of a model YAML.

    Args:
        config: from `load_model_yaml`.
        channels: input channels.
        layers: the layer table.

    Returns:
        The layers, each with `i` (index), `f` (from), `type` (class address) and `np` (number of parameters), and the
        sorted indices of the layers whose output is needed after the next row.

    Raises:
        InputError: "file: row 7: ..." for a row that cannot be built.
    """
    source = _name_source(config)
    modules: list[nn.Module] = []
    widths: list[int] = []
    save: set[int] = set()
    with BuildLimits(source) as limits:
        for index, row in enumerate([*config["backbone"], *config["head"]]):
            limits.place = f"{source}: row {index}"
            try:
                parsed = _parse_row(index, row, widths, config)
                check_limit(limits.place, "repeats", parsed.repeats, MAX_REPEATS)
                module, out = _build_row(parsed, [channels, *widths], config, layers)
            except InputError:
                raise
            except Exception as error:  # constructors of torch may raise any
                raise InputError(f"{limits.place}: {' '.join(str(error).split())}") from error
            modules.append(module)
            widths.append(out)
            origins = parsed.origin if isinstance(parsed.origin, list) else [parsed.origin]
            save.update(index + origin if origin < 0 else origin for origin in origins if origin != -1)
        graph = nn.Sequential(*modules)
        limits.place = f"{source}: activation"
        _set_activations(graph, config.get("activation"), source)
    return graph, sorted(save)


def _parse_row(index: int, row: Any, widths: Sequence[int], config: Mapping[str, Any]) -> _Row:
    """Validate a row and resolve its inputs; ValueError says what is expected."""
    if not isinstance(row, list) or len(row) != 4:
        raise ValueError(f"expected [from, number, layer, arguments], got {format_value(row)}")
    origin, repeats, name, args = row
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"number {format_value(repeats)} is not a positive integer")
    if not isinstance(args, list):
        raise ValueError(f"arguments {format_value(args)} are not a list")
    if _count_values([origin, args]) > MAX_ARGUMENTS:
        raise ValueError(f"more than {MAX_ARGUMENTS} values")
    if takes_preds := origin == []:
        pred_channels = _count_anchors_per_level(config) * (config["nc"] + 5)
        origin = [i if i < index - 1 else -1 for i in range(index - 1, -1, -1) if widths[i] == pred_channels]
        if not origin:
            raise ValueError(f"no earlier row has the {pred_channels} channels of raw predictions")
    for position in origin if isinstance(origin, list) else [origin]:
        if isinstance(position, bool) or not isinstance(position, int) or not -index - (index == 0) <= position < index:
            expected = f"0 to {index - 1}, or -1 for the previous row" if index else "-1, the image"
            raise ValueError(f"from {format_value(position)} is not an earlier row; expected {expected}")
    positions = origin if isinstance(origin, list) else [origin]
    sources = [p if p >= 0 else index + p for p in positions]
    repeats = scale_repeats(repeats, config.get("depth_multiple", 1.0))
    return _Row(index, origin, takes_preds, sources, repeats, name, args)


def _count_values(value: Any) -> int:
    return sum(map(_count_values, value)) if isinstance(value, list) else 1


def format_value(value: Any) -> str:
    """A value of a file for a message, cut to a bounded length."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def format_reason(error: Exception) -> str:
    """The text of an error on one line, cut to a bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def _count_anchors_per_level(config: Mapping[str, Any]) -> int:
    anchors = config.get("anchors", 0)
    return len(anchors[0]) // 2 if isinstance(anchors, list) else round(anchors)


def _build_row(
    row: _Row, widths: Sequence[int], config: Mapping[str, Any], layers: Mapping[str, LayerSpec]
) -> tuple[nn.Module, int]:
    """Build the module of a row; returns it with its output channels. `widths` starts with the image's channels."""
    spec = find_layer_spec(row.name, layers)
    inputs = [widths[i + 1] for i in row.sources]
    if len(inputs) > 1 and not spec.many_inputs:
        raise ValueError(f"{row.name} takes one input, from lists {len(inputs)}")
    anchors, num_anchors = config.get("anchors", []), _count_anchors_per_level(config)
    context = RowContext(
        inputs,
        config["nc"],
        num_anchors,
        anchors,
        config.get("width_multiple", 1.0),
        config.get("channel_multiple", 8),
        config.get("depth_multiple", 1.0),
        inputs_are_preds=row.takes_preds,
    )
    names = {"nc": config["nc"], "na": num_anchors, "no": context.pred_channels, "anchors": anchors}
    names |= {key: config[key] for key in ("n_segcls",) if key in config}
    args = [parse_value(arg, names) for arg in row.args]
    try:
        args, out = spec.rule(args, context)
        module = _construct(spec, args, row.repeats)
    except InputError:  # over a limit
        raise
    except Exception as error:  # constructors of torch may raise any
        raise ValueError(
            f"{row.name} expects {spec.usage()}, got {format_value(row.args)}: {format_reason(error)}"
        ) from error
    kind = f"{spec.module.__module__}.{spec.module.__qualname__}"
    parameters = sum(p.numel() for p in module.parameters())
    for attribute, value in (("i", row.index), ("f", row.origin), ("type", kind), ("np", parameters)):
        setattr(module, attribute, value)
    return module, out


def _construct(spec: LayerSpec, args: list[Any], repeats: int) -> nn.Module:
    """One layer, or a sequence of `repeats` layers if it does not repeat inside."""
    if spec.repeats_inside:
        args, repeats = [*args[:2], repeats, *args[2:]], 1
    inspect.signature(spec.module).bind(*args)
    modules = [spec.module(*args) for _ in range(repeats)]
    return modules[0] if repeats == 1 else nn.Sequential(*modules)


def _set_activations(graph: nn.Module, setting: Any, source: str) -> None:
    """Set the activations of this graph from the `activation` key; blocks share one object per kind."""
    per_block = setting if isinstance(setting, Mapping) else {"Conv": setting}
    check_limit(source, "activations", len(per_block), MAX_ROWS)
    acts = {block: _parse_activation(text, source) for block, text in per_block.items() if text is not None}
    default = copy.deepcopy(Conv.default_act)  # of this graph alone
    for module in graph.modules():
        act = module._modules.get("act")
        if act is None or (isinstance(module, Conv) and act is not Conv.default_act):
            continue  # no activation, or one set in the row
        blocks = [kind.__name__ for kind in type(module).__mro__ if kind.__name__ in acts]
        if blocks:
            module.act = acts[blocks[0]]
        elif isinstance(module, Conv):
            module.act = default


def _parse_activation(text: Any, source: str) -> nn.Module:
    try:
        value = parse_value(text, {})
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{source}: activation: {' '.join(str(error).split())}") from error
    if not isinstance(value, nn.Module):
        shown = format_value(text)
        raise InputError(f"{source}: activation: {shown} is not an activation; write nn.LeakyReLU(0.1) or SiLU()")
    return value
