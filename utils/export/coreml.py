"""Export to CoreML packages (`.mlpackage`): any system converts them, macOS and iOS run them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from utils.backends.coreml import describe_spec, open_model
from utils.core.errors import InputError
from utils.core.packages import import_runtime
from utils.export.aten import export_aten_program
from utils.export.base import ExportJob, UnsupportedOptionError
from utils.export.folders import atomic_folder
from utils.export.nms_graph import NMS_OPERATOR

INPUT, OUTPUTS = "image", ("output0", "output1")
SUFFIX = ".mlpackage"


def export_coreml(job: ExportJob) -> Path:
    """Write `<stem>.mlpackage`, an ML program for one RGB image, and compare its description with the job.

    `half` computes feature maps in FP16 and decodes boxes in FP32; `int8` stores 8-bit weights, one scale per output
    channel.

    Raises:
        InputError: coremltools is missing, a setting is not supported, or coremltools cannot convert a layer.
    """
    if job.options.batch != 1:
        raise UnsupportedOptionError(
            f"--batch-size {job.options.batch}: CoreML supports batch size 1 only; leave it out"
        )
    if job.info.channels != 3:
        raise InputError(
            f"{job.weights}: the network has {job.info.channels} input channels, CoreML images have 3; export to ONNX"
        )
    with _silence_coremltools():
        tools = import_runtime("coremltools", needed_for="CoreML exports")
        model = _convert(job, tools)
        if job.options.int8:
            model = _quantize_weights(model)
        model.short_description = f"YOLOv5, {job.info.task}"
        model.version = job.info.version
        model.user_defined_metadata.update(job.info.to_strings())
        with atomic_folder(job.get_path(SUFFIX)) as folder:
            model.save(str(folder))
            _check_description(folder, job, tools)
    return job.get_path(SUFFIX)


def _convert(job: ExportJob, tools: Any) -> Any:
    """Convert the network to an ML program."""
    _register_nms()
    precision = tools.precision.FLOAT32
    if job.options.half:
        precision = tools.transform.FP16ComputePrecision(op_selector=_is_feature_map_op)
    with torch.no_grad():
        outputs = job.network(job.example)
    count = len(outputs) if isinstance(outputs, tuple) else 1
    try:
        return tools.convert(
            export_aten_program(job),
            inputs=[
                tools.ImageType(
                    INPUT, shape=tuple(job.example.shape), scale=1 / 255, color_layout=tools.colorlayout.RGB
                )
            ],
            outputs=[tools.TensorType(name) for name in OUTPUTS[:count]],
            convert_to="mlprogram",
            minimum_deployment_target=tools.target.iOS15,
            compute_precision=precision,
        )
    except NotImplementedError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{job.weights}: coremltools {tools.__version__} cannot convert it ({reason})") from error


def _is_feature_map_op(op: Any) -> bool:
    """Whether an operation outputs feature maps (B, C, H, W), for which FP16 is precise enough.

    Box decoding has other ranks, except for its first step, the sigmoid.
    """
    return op.op_type != "sigmoid" and all(output.rank == 4 for output in op.outputs)


def _quantize_weights(model: Any) -> Any:
    optimize = import_runtime("coremltools.optimize.coreml", needed_for="--int8: CoreML exports", install="coremltools")
    config = optimize.OptimizationConfig(optimize.OpLinearQuantizerConfig(mode="linear_symmetric"))
    return optimize.linear_quantize_weights(model, config)


def _register_nms() -> None:
    """Register the conversion of the custom NMS operator with coremltools."""
    mil = import_runtime("coremltools.converters.mil", needed_for="CoreML exports", install="coremltools")

    def nms_mask(context: Any, node: Any) -> None:
        boxes, scores, groups = (context[name] for name in node.inputs[:3])
        _, conf_thres, iou_thres, max_det = node.inputs[3:]
        mask = build_mil_nms_mask(mil.Builder, boxes, scores, groups, conf_thres, iou_thres, max_det)
        context.add(mil.Builder.identity(x=mask, name=node.name))

    mil.register_torch_op(nms_mask, torch_alias=[NMS_OPERATOR], override=True)


def build_mil_nms_mask(
    mb: Any, boxes: Any, scores: Any, groups: Any, conf_thres: float, iou_thres: float, max_det: int
) -> Any:
    """Build `utils.export.nms_graph.nms_mask` for one image; boxes of different groups are moved apart.

    Args:
        mb: builder of coremltools' intermediate language (MIL).
        boxes, scores, groups: (1, N, 4), (1, N) and (1, N).

    Returns:
        (1, N) bool.
    """
    top_left, bottom_right = mb.split(x=boxes, num_splits=2, axis=-1)
    size = mb.sub(x=bottom_right, y=top_left)
    center = mb.mul(x=mb.add(x=top_left, y=bottom_right), y=0.5)
    reach = mb.add(x=mb.reduce_max(x=mb.abs(x=boxes), axes=[1, 2], keep_dims=True), y=1.0)
    offsets = mb.mul(x=mb.expand_dims(x=mb.cast(x=groups, dtype="fp32"), axes=[-1]), y=mb.mul(x=reach, y=2.0))
    _, _, indices, count = mb.non_maximum_suppression(
        boxes=mb.concat(values=[mb.add(x=center, y=offsets), size], axis=-1),
        scores=mb.expand_dims(x=scores, axes=[-1]),
        iou_threshold=float(iou_thres),
        score_threshold=float(conf_thres),
        max_boxes=int(max_det),
    )
    is_valid = mb.less(x=list(range(max_det)), y=count)  # the rest of `indices` is padding
    flags = mb.scatter(
        data=mb.fill(shape=[boxes.shape[1]], value=0.0),
        indices=mb.maximum(x=mb.squeeze(x=indices, axes=[0]), y=0),
        updates=mb.cast(x=is_valid, dtype="fp32"),
        axis=0,
        mode="max",
    )
    return mb.greater(x=mb.expand_dims(x=flags, axes=[0]), y=0.5)


def _check_description(folder: Path, job: ExportJob, tools: Any) -> None:
    """Read the package back and compare its description with the job, as only macOS can run it."""
    described = describe_spec(open_model(folder, tools, spec_only=True).get_spec(), str(folder))
    with torch.no_grad():
        outputs = job.network(job.example)
    shapes = [tuple(output.shape) for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
    expected = (INPUT, job.options.imgsz, dict(zip(OUTPUTS, shapes, strict=False)), job.info)
    actual = (described.input_name, described.size_hw, described.outputs, described.info)
    if actual != expected:
        raise RuntimeError(f"{folder}: its description is {actual}, expected {expected}")


@contextmanager
def _silence_coremltools() -> Iterator[None]:
    """Suppress warnings about untested versions, and progress bars."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
