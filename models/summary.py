"""Model summary: layer table, parameters, FLOPs.

A multiply-add counts as two FLOPs, batch norms and activations as four per element. FLOPs are counted on meta tensors.
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

from models.layers import scale_repeats
from utils import activations

FLOPS_PER_ELEMENT = 4
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
        index, sources, repeats, arguments: of the YAML row, repeats after scaling.
        parameters: number of parameters. flops: per image.
        shape: of the first output, without the batch dimension.
    """

    index: int
    sources: int | list[int]
    repeats: int
    parameters: int
    flops: int
    kind: str
    arguments: str
    shape: tuple[int, ...]


def run_on_meta(model: nn.Module, size_hw: tuple[int, int], **options: Any) -> Any:
    """Run the model on one image as meta tensors, without side effects; `options` are passed to its forward."""
    parameters = {name: t.to("meta") for name, t in model.state_dict(keep_vars=True).items()}
    first = next(iter(parameters.values()))
    channels = int(getattr(model, "yaml", {}).get("ch", 3))
    image = torch.zeros(1, channels, *size_hw, device="meta", dtype=first.dtype)
    with torch.no_grad():
        return functional_call(model, parameters, (image,), options)


def build_layer_table(model: Any, size_hw: tuple[int, int] = (640, 640)) -> list[LayerInfo]:
    """One entry per layer, for an image of `size_hw`.

    Raises:
        ValueError: the image is too small or not a multiple of the stride.
    """
    flops, shapes = _measure_layers(model, size_hw)
    config = getattr(model, "yaml", None) or {}
    rows: list[Any] = [*config.get("backbone", []), *config.get("head", [])]
    table = []
    for layer, layer_flops, shape in zip(model.model, flops, shapes, strict=True):
        kind = str(layer.type)
        row: list[Any] = rows[layer.i] if layer.i < len(rows) else [-1, 1, kind, []]
        is_from_row = str(row[2]).removeprefix("nn.") == kind.rpartition(".")[2]  # not the head of a classifier
        repeats = scale_repeats(row[1], config.get("depth_multiple", 1.0)) if is_from_row else 1
        arguments = str(row[3]) if is_from_row else ""
        table.append(LayerInfo(layer.i, layer.f, repeats, layer.np, layer_flops, kind, arguments, shape))
    return table


def _measure_layers(model: Any, size_hw: tuple[int, int]) -> tuple[list[int], list[tuple[int, ...]]]:
    """FLOPs and output shape of each layer of `model.model`."""
    shapes: list[tuple[int, ...]] = []
    totals: list[int] = []  # running total after each layer
    elements = 0

    def count_elements(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    def record(layer: nn.Module, inputs: Any, output: Any) -> None:
        shapes.append(tuple(_first_tensor(output).shape[1:]))
        totals.append(counter.get_total_flops() + FLOPS_PER_ELEMENT * elements)

    counter = FlopCounterMode(display=False)
    hooks = [m.register_forward_hook(count_elements) for m in model.modules() if isinstance(m, COUNTED_PER_ELEMENT)]
    hooks += [layer.register_forward_hook(record) for layer in model.model]
    try:
        with _skip_decoding(model), counter:
            run_on_meta(model, size_hw)
    except RuntimeError as error:
        raise ValueError(f"the network does not accept an image of {size_hw[0]}x{size_hw[1]}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return [after - before for before, after in zip([0, *totals[:-1]], totals, strict=True)], shapes


@contextmanager
def _skip_decoding(model: Any) -> Iterator[None]:
    """Set only the head to training mode, so that it does not decode; a semantic head to evaluation mode."""
    semantic = getattr(model, "semantic_head", None)
    modes = {getattr(model, "head", model.model[-1]): True, **({semantic: False} if semantic is not None else {})}
    previous = {head: head.training for head in modes}
    try:
        for head, training in modes.items():
            head.training = training
        yield
    finally:
        for head, training in previous.items():
            head.training = training


def _first_tensor(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def count_flops(model: Any, size_hw: tuple[int, int] = (640, 640)) -> int:
    """FLOPs of a forward pass on one image, without decoding."""
    return sum(_measure_layers(model, size_hw)[0])


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, or of trainable ones only."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def summarize_model(model: Any, size_hw: tuple[int, int] = (640, 640), name: str = "") -> str:
    """Layers, parameters, gradients and GFLOPs in one line; layers are all modules, nested ones included."""
    modules = sum(1 for _ in model.modules())
    parameters, gradients = count_parameters(model), count_parameters(model, trainable=True)
    try:
        flops = f"{count_flops(model, size_hw) / 1e9:.1f} GFLOPs at {size_hw[1]}x{size_hw[0]}"
    except ValueError as error:
        flops = str(error)
    title = f"{name}: " if name else ""
    return f"{title}{modules} layers, {parameters:,} parameters, {gradients:,} gradients, {flops}"


def format_layer_table(table: Sequence[LayerInfo]) -> str:
    """The layer table as aligned text."""
    header = ("layer", "from", "n", "parameters", "GFLOPs", "output", "module", "arguments")
    lines = [
        (
            str(row.index),
            str(row.sources),
            str(row.repeats),
            f"{row.parameters:,}",
            f"{row.flops / 1e9:.3f}",
            "x".join(map(str, row.shape)),
            row.kind,
            row.arguments,
        )
        for row in table
    ]
    return _align_columns([header, *lines], left_from=6)


def format_parameter_table(model: nn.Module) -> str:
    """Every parameter tensor: index, name, requires_grad, size, shape, mean, standard deviation."""
    header = ("layer", "name", "gradient", "parameters", "shape", "mean", "std")
    lines = []
    for index, (name, p) in enumerate(model.named_parameters()):
        has_values = p.device.type != "meta"
        mean, std = (f"{v:.3g}" for v in _compute_mean_std(p)) if has_values else ("-", "-")
        shape = "x".join(map(str, p.shape)) or "-"
        lines.append((str(index), name, str(p.requires_grad), f"{p.numel():,}", shape, mean, std))
    return _align_columns([header, *lines], left_from=99)


def _compute_mean_std(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (0 for a single value), in float64."""
    flat = values.detach().double().flatten()
    return float(flat.mean()), float(flat.std(correction=min(1, flat.numel() - 1)))


def _align_columns(rows: Sequence[Sequence[str]], left_from: int) -> str:
    """Pad columns to equal width: right-aligned before column `left_from`, else left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column >= left_from else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def format_model_summary(
    model: Any, size_hw: tuple[int, int] = (640, 640), *, verbose: bool = False, name: str = ""
) -> str:
    """The summary line, with `verbose` after the parameter table."""
    line = summarize_model(model, size_hw, name)
    return f"{format_parameter_table(model)}\n{line}" if verbose else line
