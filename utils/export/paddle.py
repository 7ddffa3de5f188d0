"""PaddlePaddle models: the network's ATen graph rebuilt operator by operator as a Paddle program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import fx
from torch.export.graph_signature import InputKind

from utils.backends.packages import import_runtime
from utils.core.errors import InputError
from utils.export.aten import aten_program
from utils.export.base import ExportJob
from utils.export.folders import whole_folder
from utils.export.paddle_ops import translations

ENDING = "_paddle_model"
INPUT = "images"
MODEL = "model"  # stem of the program and of its weights


def export_paddle(job: ExportJob) -> Path:
    """Write `<stem>_paddle_model/` with the program, its weights and `<stem>.yaml`.

    The converter that PaddlePaddle offers for PyTorch and ONNX models (x2paddle 1.6) fails on networks of today's
    torch, hence this one.

    Raises:
        InputError: PaddlePaddle is missing, or the network has an operator without translation.
    """
    paddle = import_runtime("paddle", needed_for="PaddlePaddle exports", install="paddlepaddle")
    program = aten_program(job)
    with whole_folder(job.target(ENDING)) as folder, _static(paddle):
        _save_program(paddle, program, job, str(folder / MODEL))
        description = yaml.safe_dump(job.info.to_values(), allow_unicode=True, sort_keys=False)
        (folder / f"{job.weights.stem}.yaml").write_text(description, encoding="utf-8")
    return job.target(ENDING)


@contextmanager
def _static(paddle: Any) -> Iterator[None]:
    """Build programs instead of computing at once, in a name space of its own."""
    was_dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    try:
        with paddle.static.scope_guard(paddle.static.Scope()), paddle.utils.unique_name.guard():
            yield
    finally:
        if was_dynamic:
            paddle.disable_static()


def _save_program(paddle: Any, program: torch.export.ExportedProgram, job: ExportJob, prefix: str) -> None:
    """Rebuild the graph and write it with its weights."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    shape = list(job.example.shape)
    if job.options.dynamic:
        shape = [-1, shape[1], -1, -1]
    with paddle.static.program_guard(main, startup):
        images = paddle.static.data(INPUT, shape, "float32")
        constants = {name: tensor.detach().cpu().numpy() for name, tensor in _constants(program).items()}
        weights = {name: array for name, array in constants.items() if array.dtype.kind == "f"}
        parameters = {
            name: paddle.static.create_parameter(list(array.shape), str(array.dtype), name=f"weight_{number}")
            for number, (name, array) in enumerate(weights.items())
        }
        others = {name: paddle.assign(constants[name]) for name in constants.keys() - weights.keys()}
        sources = dict.fromkeys(_user_inputs(program), images)
        try:
            outputs = rebuild(paddle, program, {**parameters, **others, **sources})
        except NotImplementedError as error:
            reason = f"{job.weights}: {error} has no translation to PaddlePaddle"
            raise InputError(f"{reason}; export to ONNX instead") from error
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(startup)
    for name, parameter in parameters.items():
        paddle.static.global_scope().find_var(parameter.name).get_tensor().set(weights[name], paddle.CPUPlace())
    paddle.static.save_inference_model(prefix, [images], list(outputs), executor, program=main)


def _constants(program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    """Weights, buffers and constants that are made use of, by the names of their placeholders."""
    values: Mapping[str, Any] = {**program.state_dict, **program.constants}
    used = {node.name for node in program.graph.nodes if node.users}
    specs = [(str(spec.arg.name), spec.target) for spec in program.graph_signature.input_specs]
    return {name: values[target] for name, target in specs if target is not None and name in used}


def _user_inputs(program: torch.export.ExportedProgram) -> list[str]:
    specs = program.graph_signature.input_specs
    return [str(spec.arg.name) for spec in specs if spec.kind is InputKind.USER_INPUT]


def rebuild(paddle: Any, program: torch.export.ExportedProgram, values: dict[str, Any]) -> Sequence[Any]:
    """The outputs of the graph, built of PaddlePaddle's operators.

    Args:
        values: what stands for the graph's placeholders.

    Raises:
        NotImplementedError: an operator has no translation; the text names it.
    """
    table = translations(paddle)

    def plain(value: Any) -> Any:
        """An argument as PaddlePaddle wants it."""
        if isinstance(value, fx.Node):
            return values[value.name]
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value

    for node in program.graph.nodes:
        if node.op == "output":
            return plain(node.args[0])
        if node.op == "call_function":
            if node.target not in table:
                raise NotImplementedError(str(node.target))
            options = {k: plain(v) for k, v in node.kwargs.items() if k not in ("device", "pin_memory", "layout")}
            values[node.name] = table[node.target](*map(plain, node.args), **options)
    raise AssertionError("a graph ends with its output")
