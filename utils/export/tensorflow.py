"""TensorFlow's formats: SavedModel, frozen GraphDef and TF.js, by way of ONNX and onnx2tf."""

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

from utils.backends.packages import MissingPackageError, import_runtime
from utils.backends.tensorflow import INFO_ATTRIBUTE, INFO_FILE, INPUT, import_tensorflow
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.export.base import ExportJob
from utils.export.folders import whole_folder
from utils.export.onnx import build_onnx

CONVERTER = Path(__file__).with_name("onnx_to_saved_model.py")
INSTALL = "tensorflow tf-keras onnx2tf==1.28.8 onnx-graphsurgeon sng4onnx psutil requests"  # 1.29 pins all it needs
TFJS_CONVERTER = "tensorflowjs_converter"
TFJS_INSTALL = 'python -m venv tfjs && tfjs/bin/pip install tensorflowjs "ydf<0.13" "setuptools<81"'
LONGEST = 3600  # seconds that a converter may take


def export_saved_model(job: ExportJob) -> Path:
    """Write `<stem>_saved_model/` with `metadata.yaml` inside; with `dynamic` the batch is free.

    Raises:
        InputError: a package is missing or the network cannot be converted.
    """
    target = job.target("_saved_model")
    with saved_model(job, keras=job.options.keras) as made, whole_folder(target) as folder:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        write_info(job, folder)
    return target


def export_graph_def(job: ExportJob) -> Path:
    """Write `<stem>.pb`: weights as constants, input `x:0`, outputs `Identity:0` and, if there is one, `Identity_1:0`.

    The metadata is an attribute of the input node, so that it stays with the file.

    Raises:
        InputError: a package is missing or the network cannot be converted.
    """
    with saved_model(job) as folder:
        graph_def = frozen(folder).graph.as_graph_def()
    (source,) = (node for node in graph_def.node if node.op == "Placeholder")
    source.attr[INFO_ATTRIBUTE].s = json.dumps(job.info.to_values(), ensure_ascii=False).encode()
    target = job.target(".pb")
    with atomic_write(target) as temporary:
        temporary.write_bytes(graph_def.SerializeToString())
    return target


def export_tfjs(job: ExportJob) -> Path:
    """Write `<stem>_web_model/` for TensorFlow.js by its converter, weights in FP16 or INT8 if `half` or `int8`.

    Raises:
        InputError: a package or the converter is missing, or it fails.
    """
    converter = find_converter()
    options = job.options
    weights = ["--quantize_float16=*"] if options.half else ["--quantize_uint8=*"] if options.int8 else []
    plain, target = job.changed(half=False, int8=False), job.target("_web_model")
    with tempfile.TemporaryDirectory() as temporary, whole_folder(target) as folder:
        source = export_graph_def(replace(plain, weights=Path(temporary) / "graph.pt"))
        outputs = ",".join(f"Identity_{i}" if i else "Identity" for i in range(count_outputs(job)))
        command = [str(converter), "--input_format=tf_frozen_model", "--output_format=tfjs_graph_model"]
        made = Path(temporary) / "made"  # it takes no spaces in names
        run_converter([*command, f"--output_node_names={outputs}", *weights, str(source), str(made)], job)
        shutil.copytree(made, folder, dirs_exist_ok=True)
        write_info(job, folder)
    return target


def count_outputs(job: ExportJob) -> int:
    """Outputs of the network: decoded rows, and prototypes where the head has them."""
    outputs = job.network(job.example[:1])
    return len(outputs) if isinstance(outputs, tuple) else 1


def write_info(job: ExportJob, folder: Path) -> None:
    """Describe the model in a file inside its folder."""
    text = yaml.safe_dump(job.info.to_values(), sort_keys=False, allow_unicode=True)
    (folder / INFO_FILE).write_text(text, encoding="utf-8")


@contextmanager
def saved_model(job: ExportJob, *, keras: bool = False) -> Iterator[Path]:
    """A folder with the network as SavedModel, removed at the end of the block.

    Args:
        keras: written by Keras, which takes longer and is larger, and can be loaded by it.

    Raises:
        InputError: a package is missing or the network cannot be converted.
    """
    check_packages()
    model = build_onnx(job.changed(half=False, int8=False, simplify=False, opset=None, dynamic=False))
    free_batch(model, reshapes=job.options.dynamic)
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "graph.onnx", Path(temporary) / "converted"
        source.write_bytes(model.SerializeToString())
        batch = 0 if job.options.dynamic else job.options.batch
        # -P: this folder has modules that are called like packages
        command = [sys.executable, "-P", str(CONVERTER), str(source), str(target), "--batch", str(batch)]
        run_converter([*command, *(["--keras"] if keras else [])], job)
        yield target


def check_packages() -> None:
    """MissingPackageError with the pip line where the converter cannot start; nothing of it is imported."""
    missing = [name for name in ("tensorflow", "tf_keras", "onnx2tf", "onnx_graphsurgeon") if find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"TensorFlow exports need the packages {', '.join(missing)}: pip install {INSTALL}")


def run_converter(command: list[str], job: ExportJob) -> None:
    """Run a converter to its end; InputError with its last words where it fails."""
    name = Path(command[2] if command[1] == "-P" else command[0]).stem
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST,
            check=False,
            cwd=job.weights.parent,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{job.weights}: {name} did not end within {LONGEST} s; a smaller --imgsz takes less"
        ) from error
    if done.returncode:
        raise InputError(f"{job.weights}: {name} cannot convert it ({last_words(done.stdout, done.stderr)})")


def last_words(stdout: str, stderr: str) -> str:
    """The line of a converter's output that says most of why it ended: the last with an error, else the last."""
    lines = [line.strip() for line in (*stdout.splitlines(), *stderr.splitlines()) if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines or ["it says nothing"]
    return telling[-1][:200]


def free_batch(model: Any, *, reshapes: bool) -> None:
    """Give an ONNX model a free batch.

    Args:
        reshapes: within the graph too, so that any batch can be run; else its input alone is said to be free.
    """
    import onnx

    dims = model.graph.input[0].type.tensor_type.shape.dim
    traced = dims[0].dim_value
    dims[0].dim_param = "batch"
    if not reshapes:
        return
    constants = {constant.name: constant for constant in model.graph.initializer}
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = onnx.numpy_helper.to_array(constants[node.input[1]]).copy()
        if shape[0] != traced:
            continue
        shape[0] = 0  # takes over the length of the input
        free = onnx.numpy_helper.from_array(shape, f"free_shape_{number}")
        model.graph.initializer.append(free)
        node.input[1] = free.name
        del node.attribute[:]  # allowzero, which would make it a length of zero
    for value in (*model.graph.value_info, *model.graph.output):
        sides = value.type.tensor_type.shape.dim
        if len(sides) > 2 and sides[0].dim_value == traced:
            sides[0].dim_param = "batch"


def concrete(folder: Path) -> tuple[Any, Any]:
    """The function of a SavedModel, its input called `x`, and the object that owns its variables."""
    tf = import_tensorflow("TensorFlow exports")
    loaded = tf.saved_model.load(str(folder))
    (spec,) = loaded.signatures["serving_default"].structured_input_signature[1].values()
    function = tf.function(lambda x: loaded(x))
    return function.get_concrete_function(tf.TensorSpec(spec.shape, spec.dtype, name=INPUT)), loaded


def frozen(folder: Path) -> Any:
    """The function of a SavedModel with its weights as constants."""
    convert = import_runtime(
        "tensorflow.python.framework.convert_to_constants", needed_for="TensorFlow exports", install="tensorflow"
    )
    function, owner = concrete(folder)
    result = convert.convert_variables_to_constants_v2(function)
    del owner  # its variables had to live until here
    return result


def find_converter() -> Path:
    """TensorFlow.js's converter on the PATH or beside this Python; MissingPackageError where there is none."""
    found = shutil.which(TFJS_CONVERTER) or shutil.which(TFJS_CONVERTER, path=str(Path(sys.executable).parent))
    if found is None:
        raise MissingPackageError(
            f"TensorFlow.js exports need {TFJS_CONVERTER} on the PATH; it pins older packages than these, "
            f"so give it an environment of its own: {TFJS_INSTALL}"
        )
    return Path(found)
