"""INT8 weights and activations for ONNX files: onnxruntime's static quantization with Q and DQ nodes."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from utils.backends.packages import import_runtime
from utils.export.base import ExportJob
from utils.export.calibration import ArrayReader, after_last_convolutions, calibration_arrays

FOR_TENSORRT = {
    "ActivationSymmetric": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": ["Conv"],
}
QUANTIZED = ("Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize")  # all that lies between convolutions


def quantize(job: ExportJob, model: Any, *, for_tensorrt: bool = False) -> Any:
    """The `onnx.ModelProto` with eight-bit convolutions; what decodes the boxes, and NMS, stay in FP32.

    Args:
        for_tensorrt: ranges symmetric about zero, and only the inputs and weights of convolutions in eight bits.

    Raises:
        InputError: onnxruntime is missing, or there are no images to calibrate on.
    """
    arrays = calibration_arrays(job)
    tools = import_runtime("onnxruntime.quantization", needed_for="--int8: ONNX exports", install="onnxruntime")
    import onnx

    batch = 1 if job.options.dynamic else job.options.batch
    reader = ArrayReader(arrays, model.graph.input[0].name, batch)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        logging.getLogger().disabled, before = True, logging.getLogger().disabled  # advice that does not apply here
        try:
            tools.quantize_static(
                model,
                target,
                reader,
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"] if for_tensorrt else list(QUANTIZED),
                per_channel=not job.options.per_tensor,
                activation_type=tools.QuantType.QInt8 if for_tensorrt else tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                nodes_to_exclude=float_nodes(model),
                extra_options={"WeightSymmetric": True, **(FOR_TENSORRT if for_tensorrt else {})},
            )
        finally:
            logging.getLogger().disabled = before
        return onnx.load(target)


def float_nodes(model: Any) -> list[str]:
    """Names of the nodes that stay in FP32: the last convolutions and all that follows them."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def inputs_of(node: Any) -> list[Any]:
        return [makers[name] for name in node.input if name in makers]

    last = [makers[output.name] for output in model.graph.output]
    decoding, convolutions = after_last_convolutions(last, inputs_of, lambda node: node.op_type == "Conv")
    return [node.name for node in (*decoding, *convolutions)]
