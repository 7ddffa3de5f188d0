"""Export to a graph of ATen operators (torch.export), the input of some converters."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from utils.export.base import ExportJob

DYNAMIC_AXES = {0: "batch", 2: "height", 3: "width"}
NO_OPS = (  # in a functional graph
    torch.ops.aten.alias.default,
    torch.ops.aten.clone.default,
    torch.ops.aten.detach.default,
)
ASSERTIONS = (torch.ops.aten._assert_tensor_metadata.default,)


def _where_scalar(condition: Tensor, values: Tensor, other: float) -> Tensor:
    return torch.where(condition, values, torch.zeros_like(values) + other)


DECOMPOSITIONS = {torch.ops.aten.where.ScalarOther: _where_scalar}  # converters lack this overload


def export_aten_program(job: ExportJob) -> torch.export.ExportedProgram:
    """Export the network to functional ATen operators without no-ops.

    With `dynamic`, the axes of batch, height and width are dynamic.
    """
    sample, axes = job.example, None
    if job.options.dynamic:
        sample = (
            sample if len(sample) > 1 else torch.cat((sample, sample))
        )  # torch treats an axis of length 1 as static
        axes = (dict.fromkeys(DYNAMIC_AXES, torch.export.Dim.DYNAMIC),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(job.network, (sample,), dynamic_shapes=axes).run_decompositions(DECOMPOSITIONS)
    for node in list(program.graph.nodes):
        if node.target in NO_OPS:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.target in ASSERTIONS:
            program.graph.erase_node(node)
    return program
