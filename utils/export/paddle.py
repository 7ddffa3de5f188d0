"""Export to PaddlePaddle: the ATen graph translated operator by operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import fx
from torch.export.graph_signature import InputKind

from utils.core.errors import InputError
from utils.core.packages import import_runtime
from utils.export.aten import export_aten_program
from utils.export.base import ExportJob
from utils.export.folders import atomic_folder
from utils.export.paddle_ops import build_translations

SUFFIX = "_paddle_model"
INPUT = "images"
MODEL = "model"  # stem of the program and weight files


def export_paddle(job: ExportJob) -> Path:
    """Write `<stem>_paddle_model/`: the program, its weights and `<stem>.yaml`.

    PaddlePaddle's own converter (x2paddle 1.6) does not support current versions of torch.

    Raises:
        InputError: PaddlePaddle is missing, or an operator has no translation.
    """
    paddle = import_runtime("paddle", needed_for="PaddlePaddle exports", install="paddlepaddle")
    program = export_aten_program(job)
    with atomic_folder(job.get_path(SUFFIX)) as folder, _static_mode(paddle):
        _save_program(paddle, program, job, str(folder / MODEL))
        metadata = yaml.safe_dump(job.info.to_values(), allow_unicode=True, sort_keys=False)
        (folder / f"{job.weights.stem}.yaml").write_text(metadata, encoding="utf-8")
    return job.get_path(SUFFIX)


@contextmanager
def _static_mode(paddle: Any) -> Iterator[None]:
    """Switch to static graphs, in a separate scope."""
    was_dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    try:
        with paddle.static.scope_guard(paddle.static.Scope()), paddle.utils.unique_name.guard():
            yield
    finally:
        if was_dynamic:
            paddle.disable_static()


def _save_program(paddle: Any, program: torch.export.ExportedProgram, job: ExportJob, prefix: str) -> None:
    """Translate the graph and write it with its weights."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    shape = list(job.example.shape)
    if job.options.dynamic:
        shape = [-1, shape[1], -1, -1]
    with paddle.static.program_guard(main, startup):
        images = paddle.static.data(INPUT, shape, "float32")
        constants = {name: tensor.detach().cpu().numpy() for name, tensor in _collect_constants(program).items()}
        weights = {name: array for name, array in constants.items() if array.dtype.kind == "f"}
        parameters = {
            name: paddle.static.create_parameter(list(array.shape), str(array.dtype), name=f"weight_{index}")
            for index, (name, array) in enumerate(weights.items())
        }
        others = {name: paddle.assign(constants[name]) for name in constants.keys() - weights.keys()}
        inputs = dict.fromkeys(_find_input_names(program), images)
        try:
            outputs = translate_graph(paddle, program, {**parameters, **others, **inputs})
        except NotImplementedError as error:
            raise InputError(f"{job.weights}: PaddlePaddle export does not support {error}; export to ONNX") from error
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(startup)
    for name, parameter in parameters.items():
        paddle.static.global_scope().find_var(parameter.name).get_tensor().set(weights[name], paddle.CPUPlace())
    paddle.static.save_inference_model(prefix, [images], list(outputs), executor, program=main)


def _collect_constants(program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    """Weights, buffers and constants in use, by placeholder name."""
    values: Mapping[str, Any] = {**program.state_dict, **program.constants}
    used = {node.name for node in program.graph.nodes if node.users}
    specs = [(str(spec.arg.name), spec.target) for spec in program.graph_signature.input_specs]
    return {name: values[target] for name, target in specs if target is not None and name in used}


def _find_input_names(program: torch.export.ExportedProgram) -> list[str]:
    specs = program.graph_signature.input_specs
    return [str(spec.arg.name) for spec in specs if spec.kind is InputKind.USER_INPUT]


def translate_graph(paddle: Any, program: torch.export.ExportedProgram, values: dict[str, Any]) -> Sequence[Any]:
    """Translate the graph to PaddlePaddle operators and return its outputs.

    Args:
        values: PaddlePaddle tensors by placeholder name.

    Raises:
        NotImplementedError: an operator has no translation.
    """
    table = build_translations(paddle)

    def to_paddle(value: Any) -> Any:
        """Convert an argument."""
        if isinstance(value, fx.Node):
            return values[value.name]
        if isinstance(value, list | tuple):
            return [to_paddle(item) for item in value]
        return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value

    for node in program.graph.nodes:
        if node.op == "output":
            return to_paddle(node.args[0])
        if node.op == "call_function":
            if node.target not in table:
                raise NotImplementedError(str(node.target))
            options = {k: to_paddle(v) for k, v in node.kwargs.items() if k not in ("device", "pin_memory", "layout")}
            values[node.name] = table[node.target](*map(to_paddle, node.args), **options)
    raise AssertionError("a graph ends with its output node")
