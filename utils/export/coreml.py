"""CoreML packages (`.mlpackage`), converted on any system and run on macOS and iOS."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from utils.backends.coreml import describe_spec, open_model
from utils.backends.packages import import_runtime
from utils.core.errors import InputError
from utils.export.aten import aten_program
from utils.export.base import ExportJob, NotOfferedError
from utils.export.folders import whole_folder
from utils.export.nms_graph import ONNX_OP as NMS_OPERATOR

INPUT, OUTPUTS = "image", ("output0", "output1")
ENDING = ".mlpackage"


def export_coreml(job: ExportJob) -> Path:
    """Write `<stem>.mlpackage`, an ML program that takes one RGB image, and check what its spec says.

    `half` computes in FP16 up to the maps of the head, whose boxes are decoded in FP32; `int8` stores the weights in
    8 bits, one scale per output channel.

    Raises:
        InputError: coremltools is missing, the settings cannot be had, or a layer has no CoreML form.
    """
    if job.options.batch != 1:
        raise NotOfferedError(f"--batch-size {job.options.batch}: CoreML takes one image at a time; leave it out")
    if job.info.channels != 3:
        raise InputError(f"{job.weights}: takes {job.info.channels} channels, CoreML images have 3; export to ONNX")
    with _quiet():
        tools = import_runtime("coremltools", needed_for="CoreML exports")
        model = _converted(job, tools)
        if job.options.int8:
            model = _with_small_weights(model)
        model.short_description = f"YOLOv5, {job.info.task}"
        model.version = job.info.version
        model.user_defined_metadata.update(job.info.to_strings())
        with whole_folder(job.target(ENDING)) as folder:
            model.save(str(folder))
            _check(folder, job, tools)
    return job.target(ENDING)


def _converted(job: ExportJob, tools: Any) -> Any:
    """The network as an ML program."""
    _register_nms()
    precision = tools.precision.FLOAT32
    if job.options.half:
        precision = tools.transform.FP16ComputePrecision(op_selector=_on_maps)
    with torch.no_grad():
        outputs = job.network(job.example)
    count = len(outputs) if isinstance(outputs, tuple) else 1
    try:
        return tools.convert(
            aten_program(job),
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


def _on_maps(op: Any) -> bool:
    """Whether an operation gives feature maps (B, C, H, W), which FP16 suffices for.

    Boxes have other ranks but for their first step, the sigmoid of the output maps.
    """
    return op.op_type != "sigmoid" and all(output.rank == 4 for output in op.outputs)


def _with_small_weights(model: Any) -> Any:
    optimize = import_runtime("coremltools.optimize.coreml", needed_for="--int8: CoreML exports", install="coremltools")
    config = optimize.OptimizationConfig(optimize.OpLinearQuantizerConfig(mode="linear_symmetric"))
    return optimize.linear_quantize_weights(model, config)


def _register_nms() -> None:
    """Tell coremltools what the network's NMS operator is in its own operators."""
    mil = import_runtime("coremltools.converters.mil", needed_for="CoreML exports", install="coremltools")

    def kept_by_nms(context: Any, node: Any) -> None:
        boxes, scores, groups = (context[name] for name in node.inputs[:3])
        _, conf_thres, iou_thres, max_det = node.inputs[3:]
        kept = kept_in_mil(mil.Builder, boxes, scores, groups, conf_thres, iou_thres, max_det)
        context.add(mil.Builder.identity(x=kept, name=node.name))

    mil.register_torch_op(kept_by_nms, torch_alias=[NMS_OPERATOR], override=True)


def kept_in_mil(
    mb: Any, boxes: Any, scores: Any, groups: Any, conf_thres: float, iou_thres: float, max_det: int
) -> Any:
    """As utils.export.nms_graph.kept_by_nms, for one image: boxes of different groups are moved apart.

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
    apart = mb.mul(x=mb.expand_dims(x=mb.cast(x=groups, dtype="fp32"), axes=[-1]), y=mb.mul(x=reach, y=2.0))
    _, _, indices, count = mb.non_maximum_suppression(
        boxes=mb.concat(values=[mb.add(x=center, y=apart), size], axis=-1),
        scores=mb.expand_dims(x=scores, axes=[-1]),
        iou_threshold=float(iou_thres),
        score_threshold=float(conf_thres),
        max_boxes=int(max_det),
    )
    used = mb.less(x=list(range(max_det)), y=count)  # the rest of `indices` is padding
    flags = mb.scatter(
        data=mb.fill(shape=[boxes.shape[1]], value=0.0),
        indices=mb.maximum(x=mb.squeeze(x=indices, axes=[0]), y=0),
        updates=mb.cast(x=used, dtype="fp32"),
        axis=0,
        mode="max",
    )
    return mb.greater(x=mb.expand_dims(x=flags, axes=[0]), y=0.5)


def _check(folder: Path, job: ExportJob, tools: Any) -> None:
    """Open the package again and compare its description with the job; nothing can run it except on macOS."""
    described = describe_spec(open_model(folder, tools, spec_only=True).get_spec(), str(folder))
    with torch.no_grad():
        outputs = job.network(job.example)
    shapes = [tuple(output.shape) for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
    wanted = (INPUT, job.options.imgsz, dict(zip(OUTPUTS, shapes, strict=False)), job.info)
    found = (described.input_name, described.size_hw, described.outputs, described.info)
    if wanted != found:
        raise RuntimeError(f"{folder}: written as {found}, wanted {wanted}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what coremltools says of versions it was not tested with, and its progress bars."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
