"""Export to TensorFlow Lite in FP32, FP16 and INT8, and to Edge TPU models."""

from __future__ import annotations

import copy
import io
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.yolo import Detect
from utils.backends.tensorflow import INPUT, import_tensorflow
from utils.backends.tflite import import_litert
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.packages import MissingPackageError, import_runtime
from utils.export.base import ExportJob, ExportNetwork
from utils.export.calibration import find_decoding_nodes, load_calibration_arrays
from utils.export.tensorflow import build_saved_model, extract_error_line, load_concrete_function

INFO_MEMBER = "metadata.txt"
MAX_CALIBRATION_IMAGES = 100  # the calibrator keeps the activations of all
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
COMPILER, COMPILER_SITE = "edgetpu_compiler", "https://coral.ai/docs/edgetpu/compiler/"
TIMEOUT_S = 1800  # of the compiler


def export_tflite(job: ExportJob) -> Path:
    """Write `<stem>.tflite`; `<stem>-fp16.tflite` with `half` (weights only); `<stem>-int8.tflite` with `int8`.

    Inputs and outputs are floats. INT8 keeps the last convolutions and the decoding in floats: one eight-bit scale for
    boxes and scores costs too much accuracy.

    Raises:
        InputError: a package is missing, the conversion fails, or there are no calibration images.
    """
    options = job.options
    arrays = load_calibration_inputs(job) if options.int8 else []
    with build_saved_model(to_static_fp32(job)) as folder:
        content = convert_to_tflite(folder, half=options.half)
    if options.int8:
        content = quantize(content, arrays, per_tensor=options.per_tensor)
    suffix = "-int8.tflite" if options.int8 else "-fp16.tflite" if options.half else ".tflite"
    return save_tflite(job, content, job.get_path(suffix))


def export_edgetpu(job: ExportJob) -> Path:
    """Write `<stem>-int8_edgetpu.tflite`: full INT8 with uint8 input and output, compiled by Coral's compiler.

    Raises:
        InputError: the compiler or a package is missing or fails, or there are no calibration images.
    """
    compiler = find_compiler()
    arrays = load_calibration_inputs(job)
    target = job.get_path("-int8_edgetpu.tflite")
    with build_saved_model(normalize_boxes_in_head(to_static_fp32(job))) as folder:
        content = quantize_fully(folder, arrays, per_tensor=job.options.per_tensor)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "network.tflite"
        source.write_bytes(content)
        compiled = compile_for_edgetpu(compiler, source, job)
    return save_tflite(job, compiled, target)


def to_static_fp32(job: ExportJob) -> ExportJob:
    """The job without dynamic axes and reduced precision, for the SavedModel to convert."""
    return job.with_options(half=False, int8=False, dynamic=False)


def load_calibration_inputs(job: ExportJob) -> list[np.ndarray]:
    """Load training images as input batches (batch, H, W, C)."""
    arrays = load_calibration_arrays(job, MAX_CALIBRATION_IMAGES)
    return [np.ascontiguousarray(a.repeat(job.options.batch, axis=0).transpose(0, 2, 3, 1)) for a in arrays]


def normalize_boxes_in_head(job: ExportJob) -> ExportJob:
    """Normalize boxes while decoding them, so that boxes and scores fit one quantization scale."""
    if not job.network.normalized:
        return job
    model = copy.deepcopy(job.network.model)
    height, width = job.options.imgsz
    for module in model.modules():
        if isinstance(module, Detect) and module.stride is not None:
            module.stride = module.stride.view(-1, 1) / torch.tensor([width, height], device=module.stride.device)
    return replace(job, network=ExportNetwork(model))


def convert_to_tflite(folder: Path, *, half: bool) -> bytes:
    """Convert a SavedModel to TensorFlow Lite, with FP16 weights if `half`."""
    tf = import_tensorflow("TensorFlow Lite exports")
    function, owner = load_concrete_function(folder)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def quantize_fully(folder: Path, arrays: Sequence[np.ndarray], *, per_tensor: bool) -> bytes:
    """Convert a SavedModel to TensorFlow Lite with all operators in INT8 and uint8 input and output."""
    tf = import_tensorflow("Edge TPU exports")
    function, owner = load_concrete_function(folder)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([array] for array in arrays)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    converter._experimental_disable_per_channel = per_tensor  # no public API (2.21)
    return converter.convert()


def quantize(content: bytes, arrays: Sequence[np.ndarray], *, per_tensor: bool) -> bytes:
    """Quantize weights and activations of a float file to INT8, up to the last convolutions.

    Args:
        arrays: calibration images.
        per_tensor: one scale per weight tensor instead of one per channel.

    Raises:
        MissingPackageError: the quantizer is not installed.
    """
    package, needed = "ai_edge_quantizer", "TensorFlow Lite exports in INT8"
    tools = import_runtime(f"{package}.quantizer", needed_for=needed, install="ai-edge-quantizer")
    types = import_runtime(f"{package}.qtyping", needed_for=needed, install="ai-edge-quantizer")
    every, names = types.TFLOperationName.ALL_SUPPORTED, types.TFLOperationName
    granularity = types.QuantGranularity.TENSORWISE if per_tensor else types.QuantGranularity.CHANNELWISE
    quantizer = tools.Quantizer(bytearray(content))
    quantizer.add_static_config(".*", every, 8, 8, granularity)
    for regex, operation in ((build_float_scope_regex(content), every), (".*", names.INPUT), (".*", names.OUTPUT)):
        quantizer.update_quantization_recipe(regex, operation, algorithm_key="no_quantize")
    images = [{INPUT: array} for array in arrays]
    with redirect_stderr(io.StringIO()):  # progress bars
        ranges = quantizer.calibrate({"serving_default": images}, num_threads=torch.get_num_threads())
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def build_float_scope_regex(content: bytes) -> str:
    """Build the regular expression of the outputs of operators that stay in floats."""
    interpreter = import_litert().Interpreter(model_content=content)
    operators = interpreter._get_ops_details()
    names = {detail["index"]: detail["name"] for detail in interpreter.get_tensor_details()}
    producers = {int(index): operator for operator in operators for index in operator["outputs"]}
    decoding, convolutions = find_decoding_nodes(
        [producers[detail["index"]] for detail in interpreter.get_output_details()],
        lambda operator: [producers[int(index)] for index in operator["inputs"] if int(index) in producers],
        lambda operator: operator["op_name"] in CONVOLUTIONS,
    )
    outputs = (names[int(index)] for operator in (*decoding, *convolutions) for index in operator["outputs"])
    return "|".join(f"^{re.escape(name)};?$" for name in outputs)


def find_compiler() -> str:
    """Find Coral's compiler on the PATH; MissingPackageError without it."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise MissingPackageError(f"Edge TPU exports need {COMPILER} (Linux on x86) on the PATH: {COMPILER_SITE}")
    return compiler


def compile_for_edgetpu(compiler: str, source: Path, job: ExportJob) -> bytes:
    """Compile an INT8 file for the Edge TPU; InputError with the compiler's error message if it fails."""
    command = [compiler, "--show_operations", "--out_dir", str(source.parent), str(source)]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{job.weights}: {COMPILER} exceeded {TIMEOUT_S} s; try a smaller --imgsz") from error
    except OSError as error:
        raise InputError(f"{compiler}: cannot start it ({error.strerror}); install it again") from error
    compiled = source.with_name(f"{source.stem}_edgetpu.tflite")
    if process.returncode or not compiled.is_file():
        reason = extract_error_line(process.stdout, process.stderr)
        raise InputError(f"{job.weights}: {COMPILER} failed ({reason})")
    return compiled.read_bytes()


def save_tflite(job: ExportJob, content: bytes, target: Path) -> Path:
    """Write the file with its metadata appended: a zip archive with the text of a dict."""
    archive = io.BytesIO(content)
    with zipfile.ZipFile(archive, "a") as members:
        members.writestr(INFO_MEMBER, str(job.info.to_values()))
    with atomic_write(target) as temporary:
        temporary.write_bytes(archive.getvalue())
    return target
