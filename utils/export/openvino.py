"""Export to OpenVINO folders in FP32, FP16 or INT8, converted from ONNX."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import yaml

from utils.core.packages import import_runtime
from utils.export.base import ExportJob
from utils.export.calibration import find_decoding_nodes, load_calibration_arrays
from utils.export.folders import atomic_folder
from utils.export.onnx import OUTPUTS, build_onnx

CONVOLUTIONS = ("Convolution", "GroupConvolution")


def export_openvino(job: ExportJob) -> Path:
    """Write `<stem>_openvino_model/` or, with `int8`, `<stem>_int8_openvino_model/`: model, weights and metadata.

    Raises:
        InputError: a package is missing, or there are no calibration images.
    """
    openvino = import_runtime("openvino", needed_for="OpenVINO exports")
    model = convert(openvino, job)
    if job.options.int8:
        model = quantize(openvino, job, model)
    target = job.get_path("_int8_openvino_model" if job.options.int8 else "_openvino_model")
    with atomic_folder(target) as folder:
        stem = job.weights.stem
        openvino.save_model(model, folder / f"{stem}.xml", compress_to_fp16=job.options.half)
        text = yaml.safe_dump(job.info.to_values(), sort_keys=False, allow_unicode=True)
        (folder / f"{stem}.yaml").write_text(text, encoding="utf-8")
    return target


def convert(openvino: Any, job: ExportJob) -> Any:
    """Convert the network to an FP32 `openvino.Model` through ONNX, with fewer nodes than from torch."""
    fp32_job = job.with_options(half=False, simplify=False, opset=None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        file.write_bytes(build_onnx(fp32_job).SerializeToString())
        model = openvino.convert_model(file)
        for output, name in zip(model.outputs, OUTPUTS, strict=False):
            output.get_tensor().set_names({name})
        return model


def quantize(openvino: Any, job: ExportJob, model: Any) -> Any:
    """Quantize weights and activations to eight bits with NNCF; box decoding stays in FP32."""
    arrays = load_calibration_arrays(job)
    nncf = import_runtime("nncf", needed_for="--int8: OpenVINO exports")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level changes the handlers of other loggers too
    if not job.options.dynamic and job.options.batch > 1:
        arrays = [array.repeat(job.options.batch, axis=0) for array in arrays]
    return nncf.quantize(
        model,
        nncf.Dataset(arrays),
        subset_size=len(arrays),
        preset=nncf.QuantizationPreset.MIXED,  # activations after SiLU are not symmetric
        ignored_scope=nncf.IgnoredScope(names=find_float_nodes(model), validate=False),
    )


def find_float_nodes(model: Any) -> list[str]:
    """Find the names of the nodes after the last convolutions."""

    nodes = {node.get_friendly_name(): node for node in model.get_ops()}

    def to_unique(node: Any) -> Any:
        return nodes[node.get_friendly_name()]  # the binding creates a new object per call

    decoding, _ = find_decoding_nodes(
        [to_unique(node) for node in model.get_results()],
        lambda node: [to_unique(value.get_source_output().get_node()) for value in node.inputs()],
        lambda node: node.get_type_name() in CONVOLUTIONS,
    )
    not_operators = ("Constant", "Result", "Parameter")
    return [node.get_friendly_name() for node in decoding if node.get_type_name() not in not_operators]
