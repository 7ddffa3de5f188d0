"""INT8 quantization of ONNX graphs: static quantization of onnxruntime with Q/DQ nodes."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from utils.core.packages import import_runtime
from utils.export.base import ExportJob
from utils.export.calibration import CalibrationReader, find_decoding_nodes, load_calibration_arrays

TENSORRT_OPTIONS = {
    "ActivationSymmetric": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": ["Conv"],
}
QUANTIZED_OPS = ("Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize")


def quantize(job: ExportJob, model: Any, *, for_tensorrt: bool = False) -> Any:
    """Quantize an `onnx.ModelProto`; box decoding and NMS stay in FP32.

    Args:
        for_tensorrt: symmetric ranges, and only inputs and weights of convolutions quantized.

    Raises:
        InputError: onnxruntime is missing, or there are no calibration images.
    """
    arrays = load_calibration_arrays(job)
    tools = import_runtime("onnxruntime.quantization", needed_for="--int8: ONNX exports", install="onnxruntime")
    import onnx

    batch = 1 if job.options.dynamic else job.options.batch
    reader = CalibrationReader(arrays, model.graph.input[0].name, batch)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        logging.getLogger().disabled, before = True, logging.getLogger().disabled  # hides unsuitable advice
        try:
            tools.quantize_static(
                model,
                target,
                reader,
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"] if for_tensorrt else list(QUANTIZED_OPS),
                per_channel=not job.options.per_tensor,
                activation_type=tools.QuantType.QInt8 if for_tensorrt else tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                nodes_to_exclude=find_float_nodes(model),
                extra_options={"WeightSymmetric": True, **(TENSORRT_OPTIONS if for_tensorrt else {})},
            )
        finally:
            logging.getLogger().disabled = before
        return onnx.load(target)


def find_float_nodes(model: Any) -> list[str]:
    """Find the names of the nodes that stay in FP32: the last convolutions and all nodes after them."""
    producers = {name: node for node in model.graph.node for name in node.output}

    def get_inputs(node: Any) -> list[Any]:
        return [producers[name] for name in node.input if name in producers]

    last = [producers[output.name] for output in model.graph.output]
    decoding, convolutions = find_decoding_nodes(last, get_inputs, lambda node: node.op_type == "Conv")
    return [node.name for node in (*decoding, *convolutions)]
