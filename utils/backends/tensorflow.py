"""TensorFlow SavedModels and frozen GraphDefs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import MAX_FILE_BYTES, ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.operators import TENSORFLOW_OPERATORS
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError
from utils.core.files import read_file
from utils.core.logging import LOGGER
from utils.core.packages import find_exported_file, import_runtime
from utils.core.yaml_files import parse_yaml, read_yaml

INPUT = "x"
INFO_FILE = "metadata.yaml"  # in the folder of a SavedModel
INFO_ATTRIBUTE = "_openyolov5"  # of a GraphDef's input node; TensorFlow ignores attributes with a leading underscore
SIGNATURE = "serving_default"
NUM_NMS_OUTPUTS = 4  # boxes, scores, classes, count


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
    files: Sequence[str],
    *,
    device: torch.device,
    fp16: bool = False,
    names: Mapping[int, str] | None = None,
    trust: bool = False,
) -> TensorFlowBackend:
    """Load the SavedModel of a folder, with metadata from its `metadata.yaml`, if any.

    Args:
        trust: load the whole model; otherwise only the operators that its signature runs, which must only compute.

    Raises:
        MissingPackageError: TensorFlow is not installed.
        UntrustedError: the signature has variables, or operators that may do more than compute.
        InputError: no such folder, or not a SavedModel.
    """
    folder = find_exported_file(files[0], "saved_model", folder=True)
    tf = import_tensorflow("TensorFlow SavedModels")
    info = read_info(folder / INFO_FILE)
    tf_device, device = _select_device(tf, device, fp16)
    load = _load_whole_model if trust else _load_signature
    with _reraise_errors(files[0], tf), tf.device(tf_device):
        graph = load(folder, files[0], tf)
    return TensorFlowBackend(files[0], _bind_device(graph, tf, tf_device), info, device=device, names=names)


def _load_whole_model(folder: Path, file: str, tf: Any) -> Graph:
    """The signature of a SavedModel with all variables and resources."""
    loaded = tf.saved_model.load(str(folder))
    if SIGNATURE not in loaded.signatures:
        raise InputError(f"{file}: no signature {SIGNATURE}; export it again")
    signature = loaded.signatures[SIGNATURE]
    name, spec = _get_only_input(file, signature.structured_input_signature[1].items())

    def run(images: Any, owner: Any = loaded) -> Sequence[Any]:  # the signature needs a reference to its owner
        results = signature(**{name: images})
        return [results[key] for key in sorted(results, key=_get_output_order)]

    return Graph(run, tuple(spec.shape))


def _load_signature(folder: Path, file: str, tf: Any) -> Graph:
    """The signature of a SavedModel as a graph of its own."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel()
    _parse_message(message, folder / "saved_model.pb")
    for meta_graph in message.meta_graphs:
        if SIGNATURE in meta_graph.signature_def:
            signature = meta_graph.signature_def[SIGNATURE]
            break
    else:
        raise InputError(f"{file}: no signature {SIGNATURE}; export it again")
    _, source = _get_only_input(file, signature.inputs.items())
    outputs = [signature.outputs[key].name for key in sorted(signature.outputs, key=_get_output_order)]
    graph_def = extract_graph(meta_graph.graph_def, [source.name, *outputs])
    check_operators(graph_def, file)
    return _import_graph(graph_def, source.name, outputs, tf)


def _import_graph(graph_def: Any, source: str, outputs: Sequence[str], tf: Any) -> Graph:
    """A graph as a function from a tensor to others, which have names such as "x:0"."""
    graph = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
    function = graph.prune(source, list(outputs))
    shape = function.inputs[0].shape
    return Graph(lambda images: list(function(images)), tuple(shape) if shape.rank else ())


def _bind_device(graph: Graph, tf: Any, tf_device: str) -> Graph:
    """The graph with arrays as input, run on a device."""

    def run(images: Any) -> Sequence[Any]:
        with tf.device(tf_device):
            return graph.run(tf.constant(images))

    return Graph(run, graph.shape)


def load_graph_def(
    files: Sequence[str],
    *,
    device: torch.device,
    fp16: bool = False,
    names: Mapping[int, str] | None = None,
    trust: bool = False,
) -> TensorFlowBackend:
    """Load a frozen graph: the placeholder is the input, nodes without consumers are the outputs.

    Args:
        trust: load it even if its operators may do more than compute.

    Raises:
        MissingPackageError: TensorFlow is not installed.
        UntrustedError: its operators may do more than compute.
        InputError: no such file, or not a frozen graph.
    """
    path = find_exported_file(files[0], "pb")
    tf = import_tensorflow("TensorFlow graphs")
    tf_device, device = _select_device(tf, device, fp16)
    graph_def = tf.compat.v1.GraphDef()
    _parse_message(graph_def, path)
    if not trust:
        check_operators(graph_def, files[0])
    source = _get_only_input(files[0], (node for node in graph_def.node if node.op == "Placeholder"))
    text = source.attr[INFO_ATTRIBUTE].s.decode("utf-8", "replace") if INFO_ATTRIBUTE in source.attr else ""
    info = parse_info(text, files[0])
    outputs = [f"{name}:0" for name in sorted(find_output_nodes(graph_def), key=_get_output_order)]
    with _reraise_errors(files[0], tf), tf.device(tf_device):
        graph = _import_graph(graph_def, f"{source.name}:0", outputs, tf)
    return TensorFlowBackend(files[0], _bind_device(graph, tf, tf_device), info, device=device, names=names)


def import_tensorflow(needed_for: str) -> Any:
    """Import TensorFlow with its C++ log limited to fatal errors, unless TF_CPP_MIN_LOG_LEVEL is set.

    Raises:
        MissingPackageError: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return import_runtime("tensorflow", needed_for=needed_for)


def read_info(file: Path) -> ModelInfo:
    """Read a metadata file; defaults if there is none."""
    if not file.is_file():
        return ModelInfo()
    return _to_info(read_yaml(file), str(file))


def parse_info(text: str, place: str) -> ModelInfo:
    """Parse metadata in YAML or JSON, plain data only.

    Raises:
        InputError: invalid metadata.
    """
    return _to_info(parse_yaml(text, place), place)


def _to_info(values: Any, place: str) -> ModelInfo:
    """The metadata in the content of a YAML text, None if that is empty."""
    if not isinstance(values, Mapping | None):
        raise InputError(f"{place}: metadata: expected a mapping of stride and names; export it again")
    return ModelInfo.from_values(values or {}, place=place)


def find_output_nodes(graph_def: Any) -> list[str]:
    """Names of the nodes without consumers."""
    consumed = {_get_node_name(name) for node in graph_def.node for name in node.input}
    return [node.name for node in graph_def.node if node.name not in consumed and node.op not in ("NoOp", "Const")]


def extract_graph(graph_def: Any, tensors: Iterable[str]) -> Any:
    """The nodes and functions that are needed to compute tensors, as a graph."""
    nodes = {node.name: node for node in graph_def.node}
    pending, used = [_get_node_name(tensor) for tensor in tensors], set()
    while pending:
        name = pending.pop()
        if name in nodes and name not in used:
            used.add(name)
            pending += map(_get_node_name, nodes[name].input)
    functions = {function.signature.name: function for function in graph_def.library.function}
    unread, called = [nodes[name] for name in used], set[str]()
    while unread:
        for name in (_get_function_names(unread.pop()) & functions.keys()) - called:
            called.add(name)
            unread += functions[name].node_def
    extracted = type(graph_def)(versions=graph_def.versions)
    extracted.node.extend(node for node in graph_def.node if node.name in used)
    extracted.library.function.extend(functions[name] for name in sorted(called))
    _rename_functions(extracted, suffix=f"_{uuid.uuid4().hex}")
    return extracted


def _rename_functions(graph_def: Any, *, suffix: str) -> None:
    """Append a suffix to the names of functions, which TensorFlow shares among all models of a process."""
    functions = graph_def.library.function
    names = {function.signature.name for function in functions}
    for function in functions:
        function.signature.name += suffix
    for node in (*graph_def.node, *(node for function in functions for node in function.node_def)):
        for attribute in node.attr.values():
            for reference in (attribute.func, *attribute.list.func):
                if reference.name in names:
                    reference.name += suffix


def _get_node_name(tensor: str) -> str:
    """The node of a tensor such as "x:0", or of a control input such as "^x"."""
    return tensor.lstrip("^").partition(":")[0]


def _get_function_names(node: Any) -> set[str]:
    """Names of the functions that a node may call."""
    attributes = node.attr.values()
    return {node.op, *(a.func.name for a in attributes), *(f.name for a in attributes for f in a.list.func)}


def check_operators(graph_def: Any, file: str) -> None:
    """Raise UntrustedError if the graph has operators that may do more than compute."""
    functions = (node for function in graph_def.library.function for node in function.node_def)
    for node in (*graph_def.node, *functions):
        if node.op not in TENSORFLOW_OPERATORS:
            reason = f"operator {node.op[:60]} may do more than compute, such as write files"
            raise UntrustedError(f"{file}: node {node.name[:60]!r}", reason)


def _parse_message(message: Any, path: Path) -> None:
    """Fill a protobuf message from a file; InputError if the file is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; copy the whole folder or export it again")
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(read_file(path, max_bytes=MAX_FILE_BYTES))
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
