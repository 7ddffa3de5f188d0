"""OpenVINO folders: the ONNX graph converted, in FP32, FP16 or INT8."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import yaml

from utils.backends.packages import import_runtime
from utils.export.base import ExportJob
from utils.export.calibration import after_last_convolutions, calibration_arrays
from utils.export.folders import whole_folder
from utils.export.onnx import OUTPUTS, build_onnx

CONVOLUTIONS = ("Convolution", "GroupConvolution")


def export_openvino(job: ExportJob) -> Path:
    """Write `<stem>_openvino_model/` (with `int8` `<stem>_int8_openvino_model/`) with model, weights and metadata.

    Raises:
        InputError: a package is missing, or there are no images to calibrate INT8 on.
    """
    openvino = import_runtime("openvino", needed_for="OpenVINO exports")
    model = convert(openvino, job)
    if job.options.int8:
        model = quantize(openvino, job, model)
    target = job.target("_int8_openvino_model" if job.options.int8 else "_openvino_model")
    with whole_folder(target) as folder:
        stem = job.weights.stem
        openvino.save_model(model, folder / f"{stem}.xml", compress_to_fp16=job.options.half)
        text = yaml.safe_dump(job.info.to_values(), sort_keys=False, allow_unicode=True)
        (folder / f"{stem}.yaml").write_text(text, encoding="utf-8")
    return target


def convert(openvino: Any, job: ExportJob) -> Any:
    """The network as an `openvino.Model` in FP32, by way of ONNX: fewer nodes than from torch, and with NMS."""
    plain = job.changed(half=False, simplify=False, opset=None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        file.write_bytes(build_onnx(plain).SerializeToString())
        model = openvino.convert_model(file)
        for output, name in zip(model.outputs, OUTPUTS, strict=False):
            output.get_tensor().set_names({name})
        return model


def quantize(openvino: Any, job: ExportJob, model: Any) -> Any:
    """The model with eight-bit weights and activations, calibrated by NNCF; the decoding of boxes stays in FP32."""
    arrays = calibration_arrays(job)
    nncf = import_runtime("nncf", needed_for="--int8: OpenVINO exports")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function changes the handlers of others too
    if not job.options.dynamic and job.options.batch > 1:
        arrays = [array.repeat(job.options.batch, axis=0) for array in arrays]
    return nncf.quantize(
        model,
        nncf.Dataset(arrays),
        subset_size=len(arrays),
        preset=nncf.QuantizationPreset.MIXED,  # activations after SiLU are not symmetric
        ignored_scope=nncf.IgnoredScope(names=float_nodes(model), validate=False),
    )


def float_nodes(model: Any) -> list[str]:
    """Names of the nodes after the last convolutions."""

    def inputs_of(node: Any) -> list[Any]:
        return [value.get_source_output().get_node() for value in node.inputs()]

    nodes = {node.get_friendly_name(): node for node in model.get_ops()}

    def canonical(node: Any) -> Any:
        return nodes[node.get_friendly_name()]  # each call of the binding makes a new object

    decoding, _ = after_last_convolutions(
        [canonical(node) for node in model.get_results()],
        lambda node: [canonical(source) for source in inputs_of(node)],
        lambda node: node.get_type_name() in CONVOLUTIONS,
    )
    kinds = ("Constant", "Result", "Parameter")
    return [node.get_friendly_name() for node in decoding if node.get_type_name() not in kinds]
