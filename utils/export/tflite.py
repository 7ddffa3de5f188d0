"""TensorFlow Lite files in FP32, FP16 and INT8, and those compiled for the Edge TPU."""

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
from utils.backends.packages import MissingPackageError, import_runtime
from utils.backends.tensorflow import INPUT, import_tensorflow
from utils.backends.tflite import import_litert
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.export.base import ExportJob, ExportNetwork
from utils.export.calibration import after_last_convolutions, calibration_arrays
from utils.export.tensorflow import concrete, last_words, saved_model

INFO_MEMBER = "metadata.txt"
CALIBRATED = 100  # images; the calibrator runs them one by one and keeps all activations
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
COMPILER, COMPILER_SITE = "edgetpu_compiler", "https://coral.ai/docs/edgetpu/compiler/"
LONGEST = 1800  # seconds that the compiler may take


def export_tflite(job: ExportJob) -> Path:
    """Write `<stem>.tflite`, with `half` `<stem>-fp16.tflite` (weights), with `int8` `<stem>-int8.tflite`.

    Input and output are floats in all three. INT8 keeps the last convolutions and the decoding in floats: boxes and
    scores share one output, and eight bits for both cost far more accuracy than they save time.

    Raises:
        InputError: a package is missing, the network cannot be converted, or INT8 has no images to calibrate on.
    """
    options = job.options
    arrays = calibration_inputs(job) if options.int8 else []
    with saved_model(fixed(job)) as folder:
        content = lite(folder, half=options.half)
    if options.int8:
        content = quantized(content, arrays, per_tensor=options.per_tensor)
    ending = "-int8.tflite" if options.int8 else "-fp16.tflite" if options.half else ".tflite"
    return save(job, content, job.target(ending))


def export_edgetpu(job: ExportJob) -> Path:
    """Write `<stem>-int8_edgetpu.tflite`: all of the network in INT8, input and output uint8, compiled by Coral.

    Raises:
        InputError: the compiler or a package is missing, one of them fails, or there are no images to calibrate on.
    """
    compiler = find_compiler()
    arrays = calibration_inputs(job)
    target = job.target("-int8_edgetpu.tflite")
    with saved_model(normalized_inside(fixed(job))) as folder:
        content = fully_quantized(folder, arrays, per_tensor=job.options.per_tensor)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "network.tflite"
        source.write_bytes(content)
        compiled = compile_for_edgetpu(compiler, source, job)
    return save(job, compiled, target)


def fixed(job: ExportJob) -> ExportJob:
    """The job with what these files cannot vary: a batch of `options.batch`, sizes as given, floats to begin with."""
    return job.changed(half=False, int8=False, dynamic=False)


def calibration_inputs(job: ExportJob) -> list[np.ndarray]:
    """Training images as this graph takes them, (batch, H, W, C)."""
    arrays = calibration_arrays(job, CALIBRATED)
    return [np.ascontiguousarray(a.repeat(job.options.batch, axis=0).transpose(0, 2, 3, 1)) for a in arrays]


def normalized_inside(job: ExportJob) -> ExportJob:
    """The job with boxes over width and height from the decoding on, where pixels would spoil the scores' scale.

    Boxes and scores are joined into one tensor, which has one scale when it is quantized.
    """
    if not job.network.normalized:
        return job
    model = copy.deepcopy(job.network.model)
    height, width = job.options.imgsz
    for module in model.modules():
        if isinstance(module, Detect) and module.stride is not None:
            module.stride = module.stride.view(-1, 1) / torch.tensor([width, height], device=module.stride.device)
    return replace(job, network=ExportNetwork(model))


def lite(folder: Path, *, half: bool) -> bytes:
    """A SavedModel as TensorFlow Lite, weights in FP16 if `half`."""
    tf = import_tensorflow("TensorFlow Lite exports")
    function, owner = concrete(folder)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def fully_quantized(folder: Path, arrays: Sequence[np.ndarray], *, per_tensor: bool) -> bytes:
    """A SavedModel as TensorFlow Lite with every operator in INT8, and uint8 input and output."""
    tf = import_tensorflow("Edge TPU exports")
    function, owner = concrete(folder)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([array] for array in arrays)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    converter._experimental_disable_per_channel = per_tensor  # there is no public name (2.21)
    return converter.convert()


def quantized(content: bytes, arrays: Sequence[np.ndarray], *, per_tensor: bool) -> bytes:
    """A float file with INT8 weights and activations up to the last convolutions.

    Args:
        arrays: images to calibrate on.
        per_tensor: one scale for all channels of a weight.

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
    for regex, operation in ((float_scopes(content), every), (".*", names.INPUT), (".*", names.OUTPUT)):
        quantizer.update_quantization_recipe(regex, operation, algorithm_key="no_quantize")
    images = [{INPUT: array} for array in arrays]
    with redirect_stderr(io.StringIO()):  # progress bars
        ranges = quantizer.calibrate({"serving_default": images}, num_threads=torch.get_num_threads())
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def float_scopes(content: bytes) -> str:
    """A regular expression for the operators that stay in floats, by the names of their outputs."""
    interpreter = import_litert().Interpreter(model_content=content)
    operators = interpreter._get_ops_details()
    names = {detail["index"]: detail["name"] for detail in interpreter.get_tensor_details()}
    makers = {int(number): operator for operator in operators for number in operator["outputs"]}
    decoding, convolutions = after_last_convolutions(
        [makers[detail["index"]] for detail in interpreter.get_output_details()],
        lambda operator: [makers[int(number)] for number in operator["inputs"] if int(number) in makers],
        lambda operator: operator["op_name"] in CONVOLUTIONS,
    )
    outputs = (names[int(number)] for operator in (*decoding, *convolutions) for number in operator["outputs"])
    return "|".join(f"^{re.escape(name)};?$" for name in outputs)


def find_compiler() -> str:
    """Coral's compiler on the PATH; MissingPackageError where there is none."""
    found = shutil.which(COMPILER)
    if found is None:
        raise MissingPackageError(f"Edge TPU exports need {COMPILER} (Linux on x86) on the PATH: {COMPILER_SITE}")
    return found


def compile_for_edgetpu(compiler: str, source: Path, job: ExportJob) -> bytes:
    """The compiled form of an INT8 file; InputError with the compiler's last words where it fails."""
    command = [compiler, "--show_operations", "--out_dir", str(source.parent), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{job.weights}: {COMPILER} did not end within {LONGEST} s; try a smaller --imgsz") from error
    except OSError as error:
        raise InputError(f"{compiler}: cannot be started ({error.strerror}); install it again") from error
    made = source.with_name(f"{source.stem}_edgetpu.tflite")
    if done.returncode or not made.is_file():
        reason = last_words(done.stdout, done.stderr)
        raise InputError(f"{job.weights}: {COMPILER} cannot compile it ({reason})")
    return made.read_bytes()


def save(job: ExportJob, content: bytes, target: Path) -> Path:
    """Write the file with its metadata behind the graph: a zip archive with one text, which is that of a dict."""
    archive = io.BytesIO(content)
    with zipfile.ZipFile(archive, "a") as texts:
        texts.writestr(INFO_MEMBER, str(job.info.to_values()))
    with atomic_write(target) as temporary:
        temporary.write_bytes(archive.getvalue())
    return target
