"""ONNX files: exported by torch's current exporter, described by the metadata that the original's tools read."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.backends.packages import import_runtime
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.export.base import ExportJob
from utils.export.nms_graph import onnx_translation

CONVERTIBLE = 15  # down to which onnx converts the graphs of all sizes
OPSET = 18  # what torch's translations are written in: the lowest it exports to, and the most widely run
FUNCTIONS_IR = 8  # the first that has functions
MAX_BYTES = 2**31 - 1  # of one protobuf message
INPUT, OUTPUTS = "images", ("output0", "output1")
AXES = {0: "batch", 2: "height", 3: "width"}
INT8_ENDING = "-int8.onnx"


def export_onnx(job: ExportJob) -> Path:
    """Write `<stem>.onnx`, or with `int8` `<stem>-int8.onnx`.

    Raises:
        InputError: a package is missing, the opset cannot be had, or the file would exceed 2 GB.
    """
    options = job.options
    if options.int8:
        from utils.export.onnx_int8 import quantize  # needs onnxruntime, which plain exports do not

        if options.half:
            raise InputError("--half --int8: give one of the two")
        model, ending = quantize(job, build_onnx(job)), INT8_ENDING
    else:
        model, ending = build_onnx(job), ".onnx"
    return save_onnx(model, job, job.target(ending))


def build_onnx(job: ExportJob) -> Any:
    """The network as an `onnx.ModelProto`, converted and simplified as the options want it.

    Raises:
        InputError: a package is missing or the opset cannot be had.
    """
    options = job.options
    for package in ("onnx", "onnxscript"):
        import_runtime(package, needed_for="ONNX exports")
    model = _exported(job, max(options.opset or OPSET, OPSET))
    if options.opset is not None and options.opset < OPSET:
        model = _converted(model, options.opset)
    if options.simplify:
        model = import_runtime("onnxslim", needed_for="--simplify: ONNX exports").slim(model)
    return model


def save_onnx(model: Any, job: ExportJob, target: Path) -> Path:
    """Write the model with the job's metadata as a single file."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, job.info.to_strings())
    model.ir_version = lowest_ir_version(model)
    onnx.checker.check_model(model)
    if model.ByteSize() > MAX_BYTES:
        raise InputError(f"{target}: an ONNX file ends at 2 GB, this network needs {model.ByteSize() / 1e9:.1f} GB")
    with atomic_write(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return target


def lowest_ir_version(model: Any) -> int:
    """The oldest file format that can hold the model: runtimes old enough to want its opset know no newer one."""
    import onnx

    lowest = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    return min(max(lowest, FUNCTIONS_IR if model.functions else 0), model.ir_version)


def _exported(job: ExportJob, opset: int) -> Any:
    """The graph as torch exports it, without notes on where each node comes from (they name local folders)."""
    options, info = job.options, job.info
    network = job.halved() if options.half else job.network
    sample = job.example.half() if options.half else job.example
    if options.dynamic and len(sample) == 1:
        sample = torch.cat((sample, sample))  # torch takes an axis of length one for fixed
    with torch.no_grad(), _quiet():
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
            dynamic_shapes=(dict.fromkeys(AXES, torch.export.Dim.DYNAMIC),) if options.dynamic else None,
            custom_translation_table=onnx_translation() if info.nms else None,
        )
    assert program is not None
    if opset_of(program.model_proto) != opset:
        raise InputError(f"--opset {opset}: is not written by the exporter of this torch; give a lower one")
    return _tidied(program.model_proto, dynamic=options.dynamic)


def _tidied(model: Any, *, dynamic: bool) -> Any:
    """The model with names for its free axes and without the exporter's notes."""
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.functions):
        del part.metadata_props[:]
    for part in (*model.graph.initializer, *model.graph.value_info):
        del part.metadata_props[:]
    model.producer_name, model.graph.name = "openyolov5", "yolov5"
    if dynamic:
        del model.graph.value_info[:]  # their axes are formulas of the old names
        _name_axes(model.graph.input[0], AXES)
        for output in model.graph.output:
            dims = output.type.tensor_type.shape.dim
            free = {i: f"{output.name}_{i}" for i, dim in enumerate(dims) if i and not dim.HasField("dim_value")}
            _name_axes(output, {0: "batch", **free})
    return model


def _name_axes(value: Any, names: dict[int, str]) -> None:
    for axis, name in names.items():
        value.type.tensor_type.shape.dim[axis].dim_param = name


def _converted(model: Any, opset: int) -> Any:
    """The model in an older opset; InputError where a node has no older form."""
    import onnx

    _squares_as_products(model)  # the converter has no older form of Pow
    try:
        converted = onnx.version_converter.convert_version(model, max(opset, CONVERTIBLE))
        if opset < CONVERTIBLE:
            _relabel(converted, opset)
        onnx.checker.check_model(converted, full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = f"torch exports to {OPSET} and up, and onnx cannot convert the graph down"
        first = str(error).strip().splitlines()[0][:160]
        raise InputError(f"--opset {opset}: {reason} ({first}); give --opset {OPSET} or leave it out") from error
    return converted


def _relabel(model: Any, opset: int) -> None:
    """Call the graph one of an older opset, whose operators take the same floats; the checker tells if they do not."""
    import onnx

    absent = onnx.numpy_helper.from_array(np.zeros(0, np.float32), "absent")
    for node in model.graph.node:
        kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]  # no shape here has a zero
        del node.attribute[:]
        node.attribute.extend(kept)
        if node.op_type == "Resize":  # its region and scales could not be left out
            node.input[:] = [name or absent.name for name in node.input]
    model.graph.initializer.append(absent)
    next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")).version = opset


def _squares_as_products(model: Any) -> None:
    """Replace every Pow(x, 2) by Mul(x, x)."""
    import onnx

    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in model.graph.node:
        exponent = constants.get(node.input[1]) if node.op_type == "Pow" else None
        if exponent is not None and (onnx.numpy_helper.to_array(exponent) == 2).all():
            node.op_type, node.input[1] = "Mul", node.input[0]


def opset_of(model: Any) -> int:
    """Version of the standard operators that a model uses."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's notes on its own progress."""
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
