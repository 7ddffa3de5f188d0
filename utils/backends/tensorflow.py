"""TensorFlow SavedModels and frozen GraphDefs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.packages import existing_file, import_runtime
from utils.core.errors import InputError
from utils.core.logging import LOGGER

INPUT = "x"
INFO_FILE = "metadata.yaml"  # inside a SavedModel's folder
INFO_ATTRIBUTE = "_openyolov5"  # of a GraphDef's input node; TensorFlow passes over names that start like this
SIGNATURE = "serving_default"
NMS_OUTPUTS = 4  # boxes, scores, classes, count
BARRED = {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc"}  # no network needs them


@dataclass(frozen=True)
class Graph:
    """A function of TensorFlow and the shape of its only input.

    Attributes:
        run: (B, H, W, C) array or tensor -> tensors.
        shape: (B, H, W, C), None where an axis is free.
    """

    run: Callable[[Any], Sequence[Any]]
    shape: tuple[int | None, ...]


class TensorFlowBackend(ExportedBackend):
    """A graph run by TensorFlow; any number of threads may share it.

    Four outputs are those of NMS inside the graph: corners over width and height, scores, classes, and their number.
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
            raise InputError(f"{file}: takes {graph.shape}, not one batch of images; export it again")
        batch, height, width, channels = graph.shape
        super().__init__(
            file,
            replace(info, channels=channels or info.channels, normalized=True),
            device=device,
            names=names,
            fixed_hw=(height, width) if height and width else None,
            fixed_batch=batch,
        )
        self.graph = graph

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        found = self.graph.run(images.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        outputs = [torch.from_numpy(output.numpy().copy()).to(self.device) for output in found]
        if len(outputs) == NMS_OUTPUTS:
            self.info = replace(self.info, nms=True, normalized=False)
            return [suppressed_rows(outputs, images.shape[:1:-1])]
        return sorted(outputs, key=lambda output: output.ndim)  # boxes (B, N, no), then prototypes (B, nm, H, W)


def suppressed_rows(outputs: Sequence[Tensor], size_wh: Sequence[int]) -> Tensor:
    """(B, N, 6) x1, y1, x2, y2 in pixels, score, class; zero where there is no detection.

    Args:
        outputs: (B, N, 4) corners over width and height, (B, N) scores, (B, N) classes, (B,) detections.
    """
    boxes, scores, classes, count = outputs
    rows = torch.cat((boxes * boxes.new_tensor([*size_wh] * 2), scores[..., None], classes[..., None]), dim=-1)
    used = torch.arange(rows.shape[1], device=rows.device) < count.reshape(-1, 1)
    return torch.where(used[..., None], rows, 0.0)


def load_saved_model(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TensorFlowBackend:
    """The SavedModel of a folder, with the names in its `metadata.yaml` where there is one.

    Raises:
        MissingPackageError: TensorFlow is not installed.
        InputError: no such folder, or none of a SavedModel.
    """
    folder = existing_file(files[0], "saved_model", folder=True)
    tf = import_tensorflow("TensorFlow SavedModels")
    info = read_info(folder / INFO_FILE)
    place, device = _place(tf, device, fp16)
    description = _saved_model_message()
    _parse(description, folder / "saved_model.pb")
    for part in description.meta_graphs:
        refuse_file_access(part.graph_def, files[0])
    with _explained(files[0], tf), tf.device(place):
        loaded = tf.saved_model.load(str(folder))
        if SIGNATURE not in loaded.signatures:
            raise InputError(f"{files[0]}: has no signature {SIGNATURE}, which tells its input; export it again")
        signature = loaded.signatures[SIGNATURE]
    ((name, spec),) = _only_input(files[0], signature.structured_input_signature[1].items())

    def run(images: Any, owner: Any = loaded) -> list[Any]:  # the signature lives as long as its owner
        with tf.device(place):
            found = signature(**{name: tf.constant(images)})
        return [found[key] for key in sorted(found, key=_number)]

    return TensorFlowBackend(files[0], Graph(run, tuple(spec.shape)), info, device=device, names=names)


def load_graph_def(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TensorFlowBackend:
    """A frozen graph: its placeholder is the input, the nodes that none takes from are the outputs.

    Raises:
        MissingPackageError: TensorFlow is not installed.
        InputError: no such file, or none of a frozen graph.
    """
    path = existing_file(files[0], "pb")
    tf = import_tensorflow("TensorFlow graphs")
    place, device = _place(tf, device, fp16)
    graph_def = tf.compat.v1.GraphDef()
    _parse(graph_def, path)
    refuse_file_access(graph_def, files[0])
    (source,) = _only_input(files[0], (node for node in graph_def.node if node.op == "Placeholder"))
    text = source.attr[INFO_ATTRIBUTE].s.decode("utf-8", "replace") if INFO_ATTRIBUTE in source.attr else ""
    info = parse_info(text, files[0])
    outputs = sorted(output_nodes(graph_def), key=_number)
    with _explained(files[0], tf), tf.device(place):
        whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
        function = whole.prune(f"{source.name}:0", [f"{name}:0" for name in outputs])
    shape = function.inputs[0].shape

    def run(images: Any) -> list[Any]:
        with tf.device(place):
            return list(function(tf.constant(images)))

    return TensorFlowBackend(files[0], Graph(run, tuple(shape) if shape.rank else ()), info, device=device, names=names)


def import_tensorflow(needed_for: str) -> Any:
    """The package; its notes on processors and drivers are held back while it starts.

    Raises:
        MissingPackageError: it is not installed.
    """
    before = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = before or "3"  # decides what it says later on
    try:
        with _silent_stderr():
            return import_runtime("tensorflow", needed_for=needed_for)
    finally:
        if before is None:
            del os.environ["TF_CPP_MIN_LOG_LEVEL"]


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what is written to standard error, by C++ too; it is shown after all where the block raises.

    TensorFlow 2.21 heeds no variable until it is imported.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                held.seek(0)
                sys.stderr.write(held.read().decode("utf-8", "replace"))


def read_info(file: Path) -> ModelInfo:
    """The description in a YAML file; of a model without, only the defaults are known."""
    return parse_info(file.read_text(encoding="utf-8", errors="replace") if file.is_file() else "", str(file))


def parse_info(text: str, place: str) -> ModelInfo:
    """The description that a text holds as YAML or JSON, plain data only.

    Raises:
        InputError: it is none.
    """
    try:
        values = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{place}: metadata is no plain YAML ({reason}); export it again") from error
    if not isinstance(values, Mapping):
        raise InputError(f"{place}: metadata: expected a mapping of stride and names; export it again")
    return ModelInfo.from_values(values, place=place)


def output_nodes(graph_def: Any) -> list[str]:
    """Names of the nodes that no other node takes from."""
    taken = {name.lstrip("^").partition(":")[0] for node in graph_def.node for name in node.input}
    return [node.name for node in graph_def.node if node.name not in taken and node.op not in ("NoOp", "Const")]


def refuse_file_access(graph_def: Any, file: str) -> None:
    """InputError for a graph that reads or writes files or calls Python, as TensorFlow's graphs could."""
    functions = (node for function in graph_def.library.function for node in function.node_def)
    for node in (*graph_def.node, *functions):
        if node.op in BARRED:
            raise InputError(f"{file}: holds the operator {node.op}, which no detector needs; it is not run")


def _saved_model_message() -> Any:
    """An empty message of the kind that `saved_model.pb` holds."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    return SavedModel()


def _parse(message: Any, path: Path) -> None:
    """Fill a protobuf message from a file; InputError where it does not hold one."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; copy the whole folder or export it again")
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path}: is damaged or no TensorFlow model; copy or export it again") from error


def _only_input(file: str, inputs: Iterable[Any]) -> list[Any]:
    found = list(inputs)
    if len(found) != 1:
        raise InputError(f"{file}: has {len(found)} inputs, not one batch of images; export it again")
    return found


def _number(name: str) -> tuple[int, str]:
    """Key for Identity, Identity_1, ... or output_0, output_1, ... in this order."""
    digits = name.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, name)


def _place(tf: Any, device: torch.device, fp16: bool) -> tuple[str, torch.device]:
    """TensorFlow's name for the device it is to use, and ours."""
    if fp16:
        LOGGER.warning("WARNING: --half is ignored: TensorFlow models run in FP32")
    if device.type == "cuda" and (found := tf.config.list_physical_devices("GPU")):
        for gpu in found:
            try:
                tf.config.experimental.set_memory_growth(gpu, True)  # all of it is taken otherwise
            except RuntimeError:  # it has started already
                break
        return f"/GPU:{device.index or 0}", device
    if device.type != "cpu":
        LOGGER.warning(f"WARNING: this TensorFlow runs on the CPU; for {device.type}: pip install tensorflow[and-cuda]")
    with suppress(RuntimeError):  # it has started already
        tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    return "/CPU:0", torch.device("cpu")


@contextmanager
def _explained(file: str, tf: Any) -> Iterator[None]:
    """Say in one line what TensorFlow cannot read."""
    kinds = (tf.errors.OpError, ValueError, TypeError, KeyError, OSError, AttributeError, IndexError, RuntimeError)
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        reason = " ".join(str(error).split())[:160]
        version = tf.__version__
        raise InputError(f"{file}: TensorFlow {version} cannot read it ({reason}); copy or export it again") from error
