"""TensorFlow SavedModels and frozen GraphDefs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import find_exported_file, import_runtime
from utils.core.yaml_files import parse_yaml

INPUT = "x"
INFO_FILE = "metadata.yaml"  # in the folder of a SavedModel
INFO_ATTRIBUTE = "_openyolov5"  # of a GraphDef's input node; TensorFlow ignores attributes with a leading underscore
SIGNATURE = "serving_default"
NUM_NMS_OUTPUTS = 4  # boxes, scores, classes, count
FORBIDDEN_OPERATORS = {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc"}


@dataclass(frozen=True)
class Graph:
    """A TensorFlow function and the shape of its only input.

    Attributes:
        run: (B, H, W, C) array or tensor -> tensors.
        shape: (B, H, W, C); None for dynamic axes.
    """

    run: Callable[[Any], Sequence[Any]]
    shape: tuple[int | None, ...]


class TensorFlowBackend(ExportedBackend):
    """A TensorFlow graph; thread-safe.

    A graph with NMS has four outputs: corners relative to width and height, scores, classes and their number.
    """

    title = "TensorFlow"

    def __init__(
        self,
        file: str,
        graph: Graph,
        info: ModelInfo,
        *,
        device: torch.device,
        names: Mapping[int, str] | None = None,
    ) -> None:
        if len(graph.shape) != 4:
            raise InputError(f"{file}: expected a batch of images as the input, found {graph.shape}; export it again")
        batch, height, width, channels = graph.shape
        input_shape = (batch, channels, height, width)
        super().__init__(file, replace(info, normalized=True), device=device, names=names, input_shape=input_shape)
        self.graph = graph

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        results = self.graph.run(images.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        outputs = [torch.from_numpy(output.numpy().copy()).to(self.device) for output in results]
        if len(outputs) == NUM_NMS_OUTPUTS:
            self.info = replace(self.info, nms=True, normalized=False)
            return [nms_outputs_to_rows(outputs, images.shape[:1:-1])]
        return sorted(outputs, key=lambda output: output.ndim)  # boxes (B, N, no), then prototypes (B, nm, H, W)


def nms_outputs_to_rows(outputs: Sequence[Tensor], size_wh: Sequence[int]) -> Tensor:
    """(B, N, 6): x1, y1, x2, y2 in pixels, score, class; unused rows are zero.

    Args:
        outputs: (B, N, 4) corners relative to width and height, (B, N) scores, (B, N) classes, (B,) counts.
    """
    boxes, scores, classes, count = outputs
    rows = torch.cat((boxes * boxes.new_tensor([*size_wh] * 2), scores[..., None], classes[..., None]), dim=-1)
    used = torch.arange(rows.shape[1], device=rows.device) < count.reshape(-1, 1)
    return torch.where(used[..., None], rows, 0.0)


def load_saved_model(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TensorFlowBackend:
    """Load the SavedModel of a folder, with metadata from its `metadata.yaml`, if any.

    Raises:
        MissingPackageError: TensorFlow is not installed.
        InputError: no such folder, or not a SavedModel.
    """
    folder = find_exported_file(files[0], "saved_model", folder=True)
    tf = import_tensorflow("TensorFlow SavedModels")
    info = read_info(folder / INFO_FILE)
    tf_device, device = _select_device(tf, device, fp16)
    check_saved_model(folder / "saved_model.pb", files[0])
    with _reraise_errors(files[0], tf), tf.device(tf_device):
        loaded = tf.saved_model.load(str(folder))
        if SIGNATURE not in loaded.signatures:
            raise InputError(f"{files[0]}: no signature {SIGNATURE}; export it again")
        signature = loaded.signatures[SIGNATURE]
    name, spec = _get_only_input(files[0], signature.structured_input_signature[1].items())

    def run(images: Any, owner: Any = loaded) -> list[Any]:  # the signature needs a reference to its owner
        with tf.device(tf_device):
            results = signature(**{name: tf.constant(images)})
        return [results[key] for key in sorted(results, key=_get_output_order)]

    return TensorFlowBackend(files[0], Graph(run, tuple(spec.shape)), info, device=device, names=names)


def load_graph_def(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TensorFlowBackend:
    """Load a frozen graph: the placeholder is the input, nodes without consumers are the outputs.

    Raises:
        MissingPackageError: TensorFlow is not installed.
        InputError: no such file, or not a frozen graph.
    """
    path = find_exported_file(files[0], "pb")
    tf = import_tensorflow("TensorFlow graphs")
    tf_device, device = _select_device(tf, device, fp16)
    graph_def = tf.compat.v1.GraphDef()
    _parse_message(graph_def, path)
    check_operators(graph_def, files[0])
    source = _get_only_input(files[0], (node for node in graph_def.node if node.op == "Placeholder"))
    text = source.attr[INFO_ATTRIBUTE].s.decode("utf-8", "replace") if INFO_ATTRIBUTE in source.attr else ""
    info = parse_info(text, files[0])
    outputs = sorted(find_output_nodes(graph_def), key=_get_output_order)
    with _reraise_errors(files[0], tf), tf.device(tf_device):
        graph = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
        function = graph.prune(f"{source.name}:0", [f"{name}:0" for name in outputs])
    shape = function.inputs[0].shape

    def run(images: Any) -> list[Any]:
        with tf.device(tf_device):
            return list(function(tf.constant(images)))

    return TensorFlowBackend(files[0], Graph(run, tuple(shape) if shape.rank else ()), info, device=device, names=names)


def import_tensorflow(needed_for: str) -> Any:
    """Import TensorFlow with its C++ log limited to fatal errors, unless TF_CPP_MIN_LOG_LEVEL is set.

    Raises:
        MissingPackageError: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return import_runtime("tensorflow", needed_for=needed_for)


def read_info(file: Path) -> ModelInfo:
    """Read a metadata file; defaults if there is none."""
    return parse_info(file.read_text(encoding="utf-8", errors="replace") if file.is_file() else "", str(file))


def parse_info(text: str, place: str) -> ModelInfo:
    """Parse metadata in YAML or JSON, plain data only.

    Raises:
        InputError: invalid metadata.
    """
    values = parse_yaml(text, place) or {}
    if not isinstance(values, Mapping):
        raise InputError(f"{place}: metadata: expected a mapping of stride and names; export it again")
    return ModelInfo.from_values(values, place=place)


def find_output_nodes(graph_def: Any) -> list[str]:
    """Names of the nodes without consumers."""
    consumed = {name.lstrip("^").partition(":")[0] for node in graph_def.node for name in node.input}
    return [node.name for node in graph_def.node if node.name not in consumed and node.op not in ("NoOp", "Const")]


def check_operators(graph_def: Any, file: str) -> None:
    """Raise InputError if the graph reads or writes files or calls Python."""
    functions = (node for function in graph_def.library.function for node in function.node_def)
    for node in (*graph_def.node, *functions):
        if node.op in FORBIDDEN_OPERATORS:
            raise InputError(f"{file}: refused, contains the operator {node.op}, which no network needs")


def check_saved_model(path: Path, file: str) -> None:
    """`check_operators` for all graphs of a `saved_model.pb`."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel()
    _parse_message(message, path)
    for meta_graph in message.meta_graphs:
        check_operators(meta_graph.graph_def, file)


def _parse_message(message: Any, path: Path) -> None:
    """Fill a protobuf message from a file; InputError if the file is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; copy the whole folder or export it again")
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path}: damaged or not a TensorFlow model; copy or export it again") from error


def _get_only_input(file: str, inputs: Iterable[Any]) -> Any:
    all_inputs = list(inputs)
    if len(all_inputs) != 1:
        count = len(all_inputs)
        raise InputError(f"{file}: expected a batch of images as the only input, found {count} inputs; export it again")
    return all_inputs[0]


def _get_output_order(name: str) -> tuple[int, str]:
    """Sorting key for Identity, Identity_1, ... or output_0, output_1, ..."""
    digits = name.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, name)


def _select_device(tf: Any, device: torch.device, fp16: bool) -> tuple[str, torch.device]:
    """The device that TensorFlow can use, as its name in TensorFlow and as a torch device."""
    if fp16:
        LOGGER.warning("WARNING: --half is ignored: TensorFlow models run in FP32")
    if device.type == "cuda" and (gpus := tf.config.list_physical_devices("GPU")):
        for gpu in gpus:
            try:
                tf.config.experimental.set_memory_growth(gpu, True)  # otherwise it allocates all memory
            except RuntimeError:  # already initialized
                break
        return f"/GPU:{device.index or 0}", device
    if device.type != "cpu":
        LOGGER.warning(f"WARNING: TensorFlow runs on the CPU; for {device.type}: pip install tensorflow[and-cuda]")
    with suppress(RuntimeError):  # already initialized
        tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    return "/CPU:0", torch.device("cpu")


@contextmanager
def _reraise_errors(file: str, tf: Any) -> Iterator[None]:
    """Raise errors of TensorFlow as InputError."""
    kinds = (tf.errors.OpError, ValueError, TypeError, KeyError, OSError, AttributeError, IndexError, RuntimeError)
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        reason = " ".join(str(error).split())[:160]
        version = tf.__version__
        raise InputError(f"{file}: TensorFlow {version} cannot read it ({reason}); copy or export it again") from error
