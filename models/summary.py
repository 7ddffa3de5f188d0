"""What a network is made of: layer table, parameters, floating-point operations.

A multiply-add counts as two operations; of the elementwise layers, batch normalization and activations count four each
per element. Nothing is computed for the count: the graph runs on meta tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import activation
from torch.utils.flop_counter import FlopCounterMode

from models.layers import scaled_repeats
from utils import activations

OPERATIONS_PER_ELEMENT = 4
ACTIVATIONS: tuple[type[nn.Module], ...] = tuple(
    kind
    for module in (activation, activations)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind not in (nn.Module, nn.MultiheadAttention)
)
COUNTED_PER_ELEMENT: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, *ACTIVATIONS)


@dataclass(frozen=True)
class LayerInfo:
    """One line of the layer table.

    Attributes:
        index, origin, repeats, arguments: as in the YAML row, the repeats after scaling.
        parameters: their number. operations: floating-point operations per image. shape: of the output, after the
            batch dimension; of the first one where there are several.
    """

    index: int
    origin: int | list[int]
    repeats: int
    parameters: int
    operations: int
    kind: str
    arguments: str
    shape: tuple[int, ...]


def meta_forward(model: nn.Module, size_hw: tuple[int, int], **options: Any) -> Any:
    """Output of the graph in training form for one image, as meta tensors: shapes without values or side effects.

    `options` go to the model's forward.
    """
    parameters = {name: t.to("meta") for name, t in model.state_dict(keep_vars=True).items()}
    first = next(iter(parameters.values()))
    channels = int(getattr(model, "yaml", {}).get("ch", 3))
    image = torch.zeros(1, channels, *size_hw, device="meta", dtype=first.dtype)
    with torch.no_grad():
        return functional_call(model, parameters, (image,), options)


def layer_table(model: Any, size_hw: tuple[int, int] = (640, 640)) -> list[LayerInfo]:
    """One entry per layer of the graph, for an image of `size_hw`.

    Raises:
        ValueError: the image is too small or no multiple of the stride.
    """
    counts, shapes = _measure(model, size_hw)
    config = getattr(model, "yaml", None) or {}
    rows: list[Any] = [*config.get("backbone", []), *config.get("head", [])]
    table = []
    for layer, operations, shape in zip(model.model, counts, shapes, strict=True):
        kind = str(layer.type)
        row: list[Any] = rows[layer.i] if layer.i < len(rows) else [-1, 1, kind, []]
        as_written = str(row[2]).removeprefix("nn.") == kind.rpartition(".")[2]  # a classifier replaces its row
        repeats = scaled_repeats(row[1], config.get("depth_multiple", 1.0)) if as_written else 1
        arguments = str(row[3]) if as_written else ""
        table.append(LayerInfo(layer.i, layer.f, repeats, layer.np, operations, kind, arguments, shape))
    return table


def _measure(model: Any, size_hw: tuple[int, int]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Operations and output shape of each layer of `model.model`."""
    shapes: list[tuple[int, ...]] = []
    totals: list[int] = []  # running total after each layer
    elements = 0

    def add_elements(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        shapes.append(tuple(_first_tensor(output).shape[1:]))
        totals.append(counter.get_total_flops() + OPERATIONS_PER_ELEMENT * elements)

    counter = FlopCounterMode(display=False)
    hooks = [m.register_forward_hook(add_elements) for m in model.modules() if isinstance(m, COUNTED_PER_ELEMENT)]
    hooks += [layer.register_forward_hook(note) for layer in model.model]
    try:
        with raw_head_output(model), counter:
            meta_forward(model, size_hw)
    except RuntimeError as error:
        raise ValueError(f"the network cannot take an image of {size_hw[0]}x{size_hw[1]}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return [after - before for before, after in zip([0, *totals[:-1]], totals, strict=True)], shapes


@contextmanager
def raw_head_output(model: Any) -> Iterator[None]:
    """Put the head alone into training mode, so that it returns raw maps; no auxiliary outputs of a semantic head."""
    semantic = getattr(model, "semantic_head", None)
    wanted = {getattr(model, "head", model.model[-1]): True, **({semantic: False} if semantic is not None else {})}
    before = {head: head.training for head in wanted}
    try:
        for head, training in wanted.items():
            head.training = training
        yield
    finally:
        for head, training in before.items():
            head.training = training


def _first_tensor(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def count_operations(model: Any, size_hw: tuple[int, int] = (640, 640)) -> int:
    """Floating-point operations of one forward pass over one image, without decoding."""
    return sum(_measure(model, size_hw)[0])


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, or of those that get a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def summary_line(model: Any, size_hw: tuple[int, int] = (640, 640), name: str = "") -> str:
    """Modules, parameters, gradients and GFLOPs in one line; modules count nested ones and the network itself."""
    modules = sum(1 for _ in model.modules())
    parameters, gradients = count_parameters(model), count_parameters(model, trainable=True)
    try:
        operations = f"{count_operations(model, size_hw) / 1e9:.1f} GFLOPs at {size_hw[1]}x{size_hw[0]}"
    except ValueError as error:
        operations = str(error)
    title = f"{name}: " if name else ""
    return f"{title}{modules} layers, {parameters:,} parameters, {gradients:,} gradients, {operations}"


def format_layer_table(table: Sequence[LayerInfo]) -> str:
    """The layer table as aligned text."""
    header = ("layer", "from", "n", "parameters", "GFLOPs", "output", "module", "arguments")
    lines = [
        (
            str(row.index),
            str(row.origin),
            str(row.repeats),
            f"{row.parameters:,}",
            f"{row.operations / 1e9:.3f}",
            "x".join(map(str, row.shape)),
            row.kind,
            row.arguments,
        )
        for row in table
    ]
    return aligned([header, *lines], left_from=6)


def format_parameter_table(model: nn.Module) -> str:
    """Every parameter: layer, name, whether it gets a gradient, number, shape, mean, standard deviation."""
    header = ("layer", "name", "gradient", "parameters", "shape", "mean", "deviation")
    lines = []
    for index, (name, p) in enumerate(model.named_parameters()):
        known = p.device.type != "meta"
        mean, deviation = (f"{v:.3g}" for v in _moments(p)) if known else ("-", "-")
        shape = "x".join(map(str, p.shape)) or "-"
        lines.append((str(index), name, str(p.requires_grad), f"{p.numel():,}", shape, mean, deviation))
    return aligned([header, *lines], left_from=99)


def _moments(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (0 for a single value), in float64."""
    flat = values.detach().double().flatten()
    return float(flat.mean()), float(flat.std(correction=min(1, flat.numel() - 1)))


def aligned(rows: Sequence[Sequence[str]], left_from: int) -> str:
    """Columns padded to equal width: right-aligned, from column `left_from` on left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column >= left_from else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def model_summary(model: Any, size_hw: tuple[int, int] = (640, 640), *, verbose: bool = False, name: str = "") -> str:
    """The summary line; with `verbose` after the table of every parameter."""
    line = summary_line(model, size_hw, name)
    return f"{format_parameter_table(model)}\n{line}" if verbose else line
