"""Exports of a network in memory, with the names and arguments of YOLOv5's export.py.

Each returns (file, None), for ONNX with the `onnx.ModelProto` as its second value. If the export fails, the reason is
logged and it returns (None, None).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from utils.backends.registry import FORMATS
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import import_runtime
from utils.export.base import ExportJob, ExportOptions
from utils.export.run import build_job, compute_size_mb
from utils.export.table import find_export_formats
from utils.tasks.networks import load_model

if TYPE_CHECKING:
    from pandas import DataFrame

Outcome = tuple[str | None, Any]
COLUMNS = ("Format", "Argument", "Suffix", "CPU", "GPU")
ORDER = ("", "torchscript", "onnx", "openvino", "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs")
TRAINING_GRAPH = "train=True: exported files have decoded boxes; export model.train() with torch.onnx.export yourself"


def export_formats() -> DataFrame:
    """A row per format: Format, Argument (for `include`), Suffix, CPU and GPU (whether it runs there).

    Raises:
        MissingPackageError: pandas is not installed.
    """
    pandas = import_runtime("pandas", needed_for="tables of export_formats()")
    formats = [fmt for fmt in FORMATS if fmt.include or fmt.ending == ".pt"]
    formats.sort(key=lambda fmt: ORDER.index(fmt.include) if fmt.include in ORDER else len(ORDER))
    rows = [(fmt.title, fmt.include or "-", fmt.ending, fmt.cpu, fmt.gpu and bool(fmt.runtime)) for fmt in formats]
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def try_export(inner_func: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Decorate an export: its errors are logged, and it returns (None, None) then."""

    @functools.wraps(inner_func)
    def export(*args: Any, **options: Any) -> Outcome:
        try:
            return inner_func(*args, **options)
        except Exception as error:  # converters raise exceptions of any type
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            LOGGER.error(f"error: {inner_func.__name__}: {' '.join(reason.split())[:400]}")
            return None, None

    return export


@try_export
def export_torchscript(model: nn.Module, im: Tensor, file: Path, optimize: bool = False, prefix: str = "") -> Outcome:
    """Write `<stem>.torchscript` beside `file` for inputs of the size and type of `im` (B, C, H, W)."""
    return export_network("torchscript", model, im, file, optimize=optimize)


@try_export
def export_onnx(
    model: nn.Module,
    im: Tensor,
    file: Path,
    opset: int | None = None,
    dynamic: bool = False,
    simplify: bool = False,
    prefix: str | bool = "",
    *,
    train: bool = False,
) -> Outcome:
    """Write `<stem>.onnx`; in the order of release 6.0, the last four are train, dynamic, simplify and prefix."""
    if isinstance(prefix, bool):
        train, dynamic, simplify = dynamic, simplify, prefix
    if train:
        raise InputError(TRAINING_GRAPH)
    path, _ = export_network("onnx", model, im, file, opset=opset, dynamic=dynamic, simplify=simplify)
    return path, import_runtime("onnx", needed_for="ONNX exports").load(path)


@try_export
def export_paddle(model: nn.Module, im: Tensor, file: Path, metadata: Any = None, prefix: str = "") -> Outcome:
    """Write `<stem>_paddle_model/`, with metadata of the model."""
    return export_network("paddle", model, im, file)


@try_export
def export_coreml(
    model: nn.Module, im: Tensor, file: Path, int8: bool = False, half: bool = False, prefix: str = ""
) -> Outcome:
    """Write `<stem>.mlpackage`."""
    return export_network("coreml", model, im, file, int8=int8, half=half)


@try_export
def export_engine(
    model: nn.Module,
    im: Tensor,
    file: Path,
    half: bool = False,
    dynamic: bool = False,
    simplify: bool = False,
    workspace: float = 4,
    verbose: bool = False,
    prefix: str = "",
) -> Outcome:
    """Write `<stem>.engine` for the GPU of `im`; `workspace` in GiB."""
    options = {"half": half, "dynamic": dynamic, "simplify": simplify, "workspace": workspace, "verbose": verbose}
    return export_network("engine", model, im, file, **options)


@try_export
def export_saved_model(
    model: nn.Module,
    im: Tensor,
    file: Path,
    dynamic: bool = False,
    tf_nms: bool = False,
    agnostic_nms: bool = False,
    topk_per_class: int = 100,
    topk_all: int = 100,
    iou_thres: float = 0.45,
    conf_thres: float = 0.25,
    keras: bool = False,
    prefix: str = "",
) -> Outcome:
    """Write `<stem>_saved_model/`; the second value is what `export_pb` and `export_tflite` take as `keras_model`."""
    check_nms(tf_nms)
    job = build_network_job("saved_model", model, im, file, dynamic=dynamic, keras=keras)
    return write("saved_model", job), job


@try_export
def export_pb(keras_model: Any, file: Path | Tensor, prefix: str | Path = "") -> Outcome:
    """Write `<stem>.pb` from the second value of `export_saved_model`, or of the checkpoint `file` at 640 px.

    In the order of release 6.0, the arguments are keras_model, im and file.
    """
    path = prefix if isinstance(file, Tensor) else file
    return write("pb", get_job("pb", keras_model, path)), None


@try_export
def export_tflite(
    keras_model: Any,
    im: Tensor,
    file: Path,
    int8: bool = False,
    data: str | Path = "",
    nms: bool | int = False,
    agnostic_nms: bool | str = False,
    prefix: str = "",
) -> Outcome:
    """Write `<stem>-fp16.tflite` or, calibrated on the data YAML `data`, `<stem>-int8.tflite`; else as `export_pb`."""
    check_nms(nms is True)  # release 6.0 had a number of calibration images in its place
    job = get_job("tflite", keras_model, file, im.shape[2:] if im.shape[1] in (1, 3) else im.shape[1:3])
    return write("tflite", job.with_options(half=not int8, int8=int8, data=str(data) if int8 else "")), None


@try_export
def export_openvino(
    file: Path, metadata: Any = None, half: bool = False, prefix: str = "", *, imgsz: int | Sequence[int] = 640
) -> Outcome:
    """Write `<stem>_openvino_model/` of the checkpoint `file`, with its own metadata."""
    return write("openvino", get_job("openvino", None, file, imgsz).with_options(half=half)), None


@try_export
def export_edgetpu(file: Path, prefix: str = "", *, imgsz: int | Sequence[int] = 640) -> Outcome:
    """Write `<stem>-int8_edgetpu.tflite` of the checkpoint `file`."""
    return write("edgetpu", get_job("edgetpu", None, file, imgsz).with_options(int8=True)), None


@try_export
def export_tfjs(file: Path, prefix: str = "", *, imgsz: int | Sequence[int] = 640) -> Outcome:
    """Write `<stem>_web_model/` of the checkpoint `file`."""
    return write("tfjs", get_job("tfjs", None, file, imgsz)), None


def add_tflite_metadata(file: Path, metadata: Any, num_outputs: int) -> None:
    """Not supported: InputError. `export_tflite` writes the metadata of the model itself."""
    raise InputError(f"{file}: its metadata are those of the export; names and stride are read by detect.py and val.py")


# -- jobs --------------------------------------------------------------------------------------------------------------


def export_network(include: str, model: nn.Module, im: Tensor, file: str | Path, **options: Any) -> Outcome:
    """Export a network for inputs as `im`; further options as the fields of `ExportOptions`."""
    return write(include, build_network_job(include, model, im, file, **options)), None


def build_network_job(include: str, model: nn.Module, im: Tensor, file: str | Path, **options: Any) -> ExportJob:
    """The job of a copy of the network, fused, for inputs as `im` (B, C, H, W).

    Raises:
        InputError: the network has no class names.
    """
    network: Any = copy.deepcopy(model).to(im.device).float().eval()
    if not hasattr(network, "names"):
        raise InputError(f"{type(model).__name__}: no YOLOv5 network; load one with models.experimental.attempt_load")
    if hasattr(network, "fuse"):
        network = network.fuse()
    settings = {"half": im.dtype == torch.float16, **options}
    height, width = map(int, im.shape[2:])
    exports = ExportOptions(imgsz=(height, width), batch=len(im), device=im.device, **settings)
    return build_job(Path(file), network, exports, normalized=find_export_formats([include])[0].normalized)


def get_job(include: str, keras_model: Any, file: str | Path, imgsz: int | Sequence[int] = 640) -> ExportJob:
    """The job that `export_saved_model` returned, or one of the checkpoint `file`, for the CPU."""
    if isinstance(keras_model, ExportJob):
        return keras_model
    sides = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz)
    model: Any = load_model(str(Path(file).with_suffix(".pt")))
    channels = int((getattr(model, "yaml", None) or {}).get("ch", 3))
    return build_network_job(include, model, torch.zeros(1, channels, sides[0], sides[-1]), file)


def write(include: str, job: ExportJob) -> str:
    """Export a job to a format; the file or folder."""
    (fmt,) = find_export_formats([include])
    target = fmt.export(job)
    LOGGER.info(f"{fmt.title}: saved to {target} ({compute_size_mb(target):.1f} MB)")
    return str(target)


def check_nms(nms: bool) -> None:
    """InputError if NMS is to be part of a TensorFlow graph."""
    if nms:
        raise InputError("nms: not supported in TensorFlow graphs; the runtime's output is the input of NMS")
