"""The network as a graph of ATen operators (torch.export), for converters that start from it."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from utils.export.base import ExportJob

AXES = {0: "batch", 2: "height", 3: "width"}  # free where the export is dynamic
NO_OPERATION = (  # of a graph that nothing is written into
    torch.ops.aten.alias.default,
    torch.ops.aten.clone.default,
    torch.ops.aten.detach.default,
)
CHECK_ONLY = (torch.ops.aten._assert_tensor_metadata.default,)


def _where_number(condition: Tensor, values: Tensor, other: float) -> Tensor:
    return torch.where(condition, values, torch.zeros_like(values) + other)


SPELLED_OUT = {torch.ops.aten.where.ScalarOther: _where_number}  # forms that converters lack


def aten_program(job: ExportJob) -> torch.export.ExportedProgram:
    """The job's network in the functional ATen operators of `torch.export`, without those that compute nothing.

    With `dynamic`, batch, height and width are free.
    """
    sample, axes = job.example, None
    if job.options.dynamic:
        sample = sample if len(sample) > 1 else torch.cat((sample, sample))  # an axis of length one is taken for fixed
        axes = (dict.fromkeys(AXES, torch.export.Dim.DYNAMIC),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(job.network, (sample,), dynamic_shapes=axes).run_decompositions(SPELLED_OUT)
    for node in list(program.graph.nodes):
        if node.target in NO_OPERATION:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.target in CHECK_ONLY:
            program.graph.erase_node(node)
    return program
