"""Export to TensorFlow SavedModel, frozen GraphDef and TensorFlow.js through ONNX and onnx2tf."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from utils.backends.tensorflow import INFO_ATTRIBUTE, INFO_FILE, INPUT, import_tensorflow
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.packages import MissingPackageError, import_runtime
from utils.export.base import ExportJob
from utils.export.folders import atomic_folder
from utils.export.onnx import build_onnx

CONVERTER = Path(__file__).with_name("onnx_to_saved_model.py")
INSTALL = (
    "tensorflow tf-keras onnx2tf==1.28.8 onnx-graphsurgeon sng4onnx psutil requests"  # 1.29 pins all its dependencies
)
TFJS_CONVERTER = "tensorflowjs_converter"
TFJS_INSTALL = 'python -m venv tfjs && tfjs/bin/pip install tensorflowjs "ydf<0.13" "setuptools<81"'
TIMEOUT_S = 3600  # of a converter


def export_saved_model(job: ExportJob) -> Path:
    """Write `<stem>_saved_model/` with `metadata.yaml` inside; `dynamic` makes the batch dynamic.

    Raises:
        InputError: a package is missing or the conversion fails.
    """
    target = job.get_path("_saved_model")
    with build_saved_model(job, keras=job.options.keras) as source, atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        write_metadata(job, folder)
    return target


def export_graph_def(job: ExportJob) -> Path:
    """Write `<stem>.pb`: input `x:0`, outputs `Identity:0`, `Identity_1:0`; metadata is an attribute of the input node.

    Raises:
        InputError: a package is missing or the conversion fails.
    """
    with build_saved_model(job) as folder:
        graph_def = freeze_graph(folder).graph.as_graph_def()
    (input_node,) = (node for node in graph_def.node if node.op == "Placeholder")
    input_node.attr[INFO_ATTRIBUTE].s = json.dumps(job.info.to_values(), ensure_ascii=False).encode()
    target = job.get_path(".pb")
    with atomic_write(target) as temporary:
        temporary.write_bytes(graph_def.SerializeToString())
    return target


def export_tfjs(job: ExportJob) -> Path:
    """Write `<stem>_web_model/` with the TensorFlow.js converter, weights in FP16 or INT8 if `half` or `int8`.

    Raises:
        InputError: a package or the converter is missing, or the conversion fails.
    """
    converter = find_converter()
    options = job.options
    precision = ["--quantize_float16=*"] if options.half else ["--quantize_uint8=*"] if options.int8 else []
    fp32_job, target = job.with_options(half=False, int8=False), job.get_path("_web_model")
    with tempfile.TemporaryDirectory() as temporary, atomic_folder(target) as folder:
        source = export_graph_def(replace(fp32_job, weights=Path(temporary) / "graph.pt"))
        outputs = ",".join(f"Identity_{i}" if i else "Identity" for i in range(count_outputs(job)))
        command = [str(converter), "--input_format=tf_frozen_model", "--output_format=tfjs_graph_model"]
        converted = Path(temporary) / "converted"  # the converter does not support spaces in paths
        run_converter([*command, f"--output_node_names={outputs}", *precision, str(source), str(converted)], job)
        shutil.copytree(converted, folder, dirs_exist_ok=True)
        write_metadata(job, folder)
    return target


def count_outputs(job: ExportJob) -> int:
    """Number of output tensors of the network."""
    outputs = job.network(job.example[:1])
    return len(outputs) if isinstance(outputs, tuple) else 1


def write_metadata(job: ExportJob, folder: Path) -> None:
    """Write the metadata file of a folder."""
    text = yaml.safe_dump(job.info.to_values(), sort_keys=False, allow_unicode=True)
    (folder / INFO_FILE).write_text(text, encoding="utf-8")


@contextmanager
def build_saved_model(job: ExportJob, *, keras: bool = False) -> Iterator[Path]:
    """Yield a temporary folder with the network as SavedModel.

    Args:
        keras: write it with Keras, which can then load it; slower and larger.

    Raises:
        InputError: a package is missing or the conversion fails.
    """
    check_packages()
    model = build_onnx(job.with_options(half=False, int8=False, simplify=False, opset=None, dynamic=False))
    make_batch_dynamic(model, reshapes=job.options.dynamic)
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "graph.onnx", Path(temporary) / "converted"
        source.write_bytes(model.SerializeToString())
        batch = 0 if job.options.dynamic else job.options.batch
        # -P: modules of this folder have the names of packages
        command = [sys.executable, "-P", str(CONVERTER), str(source), str(target), "--batch", str(batch)]
        run_converter([*command, *(["--keras"] if keras else [])], job)
        yield target


def check_packages() -> None:
    """Raise MissingPackageError with the pip command unless the converter is installed; imports nothing."""
    missing = [name for name in ("tensorflow", "tf_keras", "onnx2tf", "onnx_graphsurgeon") if find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"TensorFlow exports need the packages {', '.join(missing)}: pip install {INSTALL}")


def run_converter(command: list[str], job: ExportJob) -> None:
    """Run a converter; InputError with its error message if it fails."""
    name = Path(command[2] if command[1] == "-P" else command[0]).stem
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            cwd=job.weights.parent,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{job.weights}: {name} exceeded {TIMEOUT_S} s; try a smaller --imgsz") from error
    if process.returncode:
        raise InputError(f"{job.weights}: {name} failed ({extract_error_line(process.stdout, process.stderr)})")


def extract_error_line(stdout: str, stderr: str) -> str:
    """Last line of a converter's output that contains "error", else the last line."""
    lines = [line.strip() for line in (*stdout.splitlines(), *stderr.splitlines()) if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
    return errors[-1][:200]


def make_batch_dynamic(model: Any, *, reshapes: bool) -> None:
    """Make the batch axis of an ONNX model dynamic.

    Args:
        reshapes: also in the Reshape nodes, so that the graph runs with any batch size.
    """
    import onnx

    dims = model.graph.input[0].type.tensor_type.shape.dim
    batch = dims[0].dim_value
    dims[0].dim_param = "batch"
    if not reshapes:
        return
    constants = {constant.name: constant for constant in model.graph.initializer}
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = onnx.numpy_helper.to_array(constants[node.input[1]]).copy()
        if shape[0] != batch:
            continue
        shape[0] = 0  # copies the length from the input
        dynamic_shape = onnx.numpy_helper.from_array(shape, f"free_shape_{index}")
        model.graph.initializer.append(dynamic_shape)
        node.input[1] = dynamic_shape.name
        del node.attribute[:]  # allowzero would make it a length of zero
    for value in (*model.graph.value_info, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        if len(axes) > 2 and axes[0].dim_value == batch:
            axes[0].dim_param = "batch"


def load_concrete_function(folder: Path) -> tuple[Any, Any]:
    """Load the function of a SavedModel, with an input named `x`, and the object that owns its variables."""
    tf = import_tensorflow("TensorFlow exports")
    loaded = tf.saved_model.load(str(folder))
    (spec,) = loaded.signatures["serving_default"].structured_input_signature[1].values()
    function = tf.function(lambda x: loaded(x))
    return function.get_concrete_function(tf.TensorSpec(spec.shape, spec.dtype, name=INPUT)), loaded


def freeze_graph(folder: Path) -> Any:
    """Convert the weights of a SavedModel's function to constants."""
    convert = import_runtime(
        "tensorflow.python.framework.convert_to_constants", needed_for="TensorFlow exports", install="tensorflow"
    )
    function, owner = load_concrete_function(folder)
    result = convert.convert_variables_to_constants_v2(function)
    del owner  # keeps the variables alive until here
    return result


def find_converter() -> Path:
    """Find the TensorFlow.js converter on the PATH or beside this Python; MissingPackageError without it."""
    program = shutil.which(TFJS_CONVERTER) or shutil.which(TFJS_CONVERTER, path=str(Path(sys.executable).parent))
    if program is None:
        raise MissingPackageError(
            f"TensorFlow.js exports need {TFJS_CONVERTER} on the PATH; it requires older packages, "
            f"so install it in a separate environment: {TFJS_INSTALL}"
        )
    return Path(program)
