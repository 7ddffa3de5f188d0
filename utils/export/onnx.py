"""Export to ONNX, with the metadata that tools for YOLOv5 read."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.packages import import_runtime
from utils.export.base import ExportJob
from utils.export.nms_graph import build_onnx_translation

MIN_CONVERTED_OPSET = 15  # by onnx itself, for graphs of any size
AXES_INPUT_OPSET = 13  # where axes became an input
NEWER_ATTRIBUTES = ("allowzero", "noop_with_empty_axes", "start", "end")  # not set, as no shape has a zero, or replaced
ABSENT = "absent"  # name of an empty tensor, for inputs without a value
DEFAULT_OPSET = 18  # the lowest of torch's exporter, and the most widely supported
FUNCTIONS_IR_VERSION = 8  # the first with functions
MAX_BYTES = 2**31 - 1  # of one protobuf message
INPUT, OUTPUTS = "images", ("output0", "output1")
DYNAMIC_AXES = {0: "batch", 2: "height", 3: "width"}
INT8_SUFFIX = "-int8.onnx"


def export_onnx(job: ExportJob) -> Path:
    """Write `<stem>.onnx`, or with `int8` `<stem>-int8.onnx`.

    Raises:
        InputError: a package is missing, the opset is not supported, or the file would exceed 2 GB.
    """
    options = job.options
    if options.int8:
        from utils.export.onnx_int8 import quantize  # needs onnxruntime

        if options.half:
            raise InputError("--half and --int8 cannot be combined; use one of them")
        model, suffix = quantize(job, build_onnx(job)), INT8_SUFFIX
    else:
        model, suffix = build_onnx(job), ".onnx"
    return save_onnx(model, job, job.get_path(suffix))


def build_onnx(job: ExportJob) -> Any:
    """Build the `onnx.ModelProto` of the network, with the opset and simplification of the options.

    Raises:
        InputError: a package is missing or the opset is not supported.
    """
    options = job.options
    for package in ("onnx", "onnxscript"):
        import_runtime(package, needed_for="ONNX exports")
    model = _export_graph(job, max(options.opset or DEFAULT_OPSET, DEFAULT_OPSET))
    if options.opset is not None and options.opset < DEFAULT_OPSET:
        model = _convert_opset(model, options.opset)
    if options.simplify:
        model = import_runtime("onnxslim", needed_for="--simplify: ONNX exports").slim(model)
    return model


def save_onnx(model: Any, job: ExportJob, target: Path) -> Path:
    """Write the model and the job's metadata to one file."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, job.info.to_strings())
    model.ir_version = find_lowest_ir_version(model)
    onnx.checker.check_model(model)
    if model.ByteSize() > MAX_BYTES:
        raise InputError(
            f"{target}: ONNX files are limited to 2 GB, this network needs {model.ByteSize() / 1e9:.1f} GB"
        )
    with atomic_write(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return target


def find_lowest_ir_version(model: Any) -> int:
    """Lowest IR version that supports the model, for runtimes as old as its opset."""
    import onnx

    lowest = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    return min(max(lowest, FUNCTIONS_IR_VERSION if model.functions else 0), model.ir_version)


def _export_graph(job: ExportJob, opset: int) -> Any:
    """Export the graph, without the exporter's notes on source files."""
    options, info = job.options, job.info
    network = job.build_half_network() if options.half else job.network
    sample = job.example.half() if options.half else job.example
    if options.dynamic and len(sample) == 1:
        sample = torch.cat((sample, sample))  # torch treats an axis of length 1 as static
    with torch.no_grad(), _silence_exporter():
        outputs = job.network(job.example[:1])
        count = len(outputs) if isinstance(outputs, tuple) else 1
        program = torch.onnx.export(
            network,
            (sample,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=list(OUTPUTS[:count]),
            opset_version=opset,
            dynamic_shapes=(dict.fromkeys(DYNAMIC_AXES, torch.export.Dim.DYNAMIC),) if options.dynamic else None,
            custom_translation_table=build_onnx_translation() if info.nms else None,
        )
    assert program is not None
    if get_opset(program.model_proto) != opset:
        raise InputError(f"--opset {opset}: the exporter of this torch does not support it; give a lower one")
    return _tidy(program.model_proto, dynamic=options.dynamic)


def _tidy(model: Any, *, dynamic: bool) -> Any:
    """Name the dynamic axes and remove the exporter's notes."""
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.functions):
        del part.metadata_props[:]
    for part in (*model.graph.initializer, *model.graph.value_info):
        del part.metadata_props[:]
    model.producer_name, model.graph.name = "openyolov5", "yolov5"
    if dynamic:
        del model.graph.value_info[:]  # with expressions of the exporter's axis names
        _name_axes(model.graph.input[0], DYNAMIC_AXES)
        for output in model.graph.output:
            dims = output.type.tensor_type.shape.dim
            dynamic_axes = {
                i: f"{output.name}_{i}" for i, dim in enumerate(dims) if i and not dim.HasField("dim_value")
            }
            _name_axes(output, {0: "batch", **dynamic_axes})
    return model


def _name_axes(value: Any, names: dict[int, str]) -> None:
    for axis, name in names.items():
        value.type.tensor_type.shape.dim[axis].dim_param = name


def _convert_opset(model: Any, opset: int) -> Any:
    """Convert the model to an older opset; InputError if onnx cannot convert an operator."""
    import onnx

    _replace_squares(model)  # onnx does not convert Pow
    try:
        converted = onnx.version_converter.convert_version(model, max(opset, MIN_CONVERTED_OPSET))
        if opset < MIN_CONVERTED_OPSET:
            _relabel_opset(converted, opset)
        onnx.checker.check_model(converted, full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise InputError(
            f"--opset {opset}: torch exports opset {DEFAULT_OPSET} and later, and onnx cannot convert this graph down "
            f"({reason}); give --opset {DEFAULT_OPSET} or leave it out"
        ) from error
    return converted


def _relabel_opset(model: Any, opset: int) -> None:
    """Set an older opset version, and write the operators that changed in their older form; the checker verifies it."""
    import onnx

    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Resize":  # region and scales were mandatory
            node.input[:] = [name or ABSENT for name in node.input]
        elif node.op_type in ("Squeeze", "Unsqueeze") and opset < AXES_INPUT_OPSET and len(node.input) > 1:
            axes = onnx.numpy_helper.to_array(constants[node.input.pop()]).tolist()
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
        elif node.op_type == "Shape" and node.attribute:
            nodes.append(_slice_shape(model, node))
        attributes = [attribute for attribute in node.attribute if attribute.name not in NEWER_ATTRIBUTES]
        del node.attribute[:]
        node.attribute.extend(attributes)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # copies: the list is cleared
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(0, np.float32), ABSENT))
    next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")).version = opset


def _slice_shape(model: Any, node: Any) -> Any:
    """A node that cuts `start` to `end` out of the output of a Shape node, whose attributes did not exist."""
    import onnx

    output, whole = node.output[0], f"{node.output[0]}_whole"
    limits = {"start": 0, "end": np.iinfo(np.int64).max} | {attribute.name: attribute.i for attribute in node.attribute}
    names = [f"{output}_{limit}" for limit in limits]
    for name, value in zip(names, limits.values(), strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    node.output[0] = whole
    return onnx.helper.make_node("Slice", [whole, *names], [output])


def _replace_squares(model: Any) -> None:
    """Replace every Pow(x, 2) by Mul(x, x)."""
    import onnx

    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in model.graph.node:
        exponent = constants.get(node.input[1]) if node.op_type == "Pow" else None
        if exponent is not None and (onnx.numpy_helper.to_array(exponent) == 2).all():
            node.op_type, node.input[1] = "Mul", node.input[0]


def get_opset(model: Any) -> int:
    """Version of the standard operator set of a model."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


@contextmanager
def _silence_exporter() -> Iterator[None]:
    """Suppress the exporter's progress messages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
