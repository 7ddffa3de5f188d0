"""Export runs: every checkpoint in every format, each compared with PyTorch."""

from __future__ import annotations

import errno
import shutil
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from models.yolo import check_image_size
from utils.backends.info import ModelInfo
from utils.config.export import ExportConfig
from utils.core.device import describe_device, select_device
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.script import USER_ERRNOS
from utils.core.version import VERSION
from utils.export.accuracy import build_accuracy_meter
from utils.export.base import ExportJob, ExportNetwork, ExportOptions
from utils.export.nms_graph import GraphNms
from utils.export.table import ExportFormat, find_export_formats
from utils.export.verify import check_export
from utils.tasks.networks import find_weights, load_model
from utils.tasks.registry import find_task

MIN_STRIDE = 32
REQUIRED = ("int8", "nms")  # unsupported ones are errors: without them the file would be of another kind
FLAGS = ("half", "int8", "per_tensor", "dynamic", "simplify", "optimize", "opset", "keras", "nms", "cache")


@dataclass(frozen=True)
class ExportSummary:
    """Result of a run.

    Attributes:
        files: files and folders written, without those that failed the comparison.
        problems: a line for each failed export.
    """

    files: tuple[str, ...]
    problems: tuple[str, ...]


def export_all(config: ExportConfig) -> ExportSummary:
    """Export every checkpoint to every format; a failure does not stop the others.

    Raises:
        InputError: a setting or checkpoint cannot be used.
    """
    config = config.check()
    formats = find_export_formats(config.include)
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    _warn_ignored_flags(config)
    files, problems = [], []
    for weights in config.weights:
        path = find_weights(weights)
        model: Any = load_model(str(path), device=device)
        options = build_export_options(config, model, device)
        for fmt in formats:
            try:
                files.append(str(export_one(path, model, fmt, options)))
            except Exception as error:  # converters raise exceptions of any type
                if config.verbose:
                    LOGGER.info(traceback.format_exc())
                problems.append(_format_problem(fmt, path, error))
                LOGGER.error(f"error: {problems[-1]}")
    _log_summary(files, problems, config)
    return ExportSummary(tuple(files), tuple(problems))


def build_export_options(config: ExportConfig, model: Any, device: torch.device) -> ExportOptions:
    """Settings for one checkpoint, with the image size rounded up to its stride."""
    stride = compute_input_stride(model)
    height, width = (check_image_size(side, stride) for side in config.size_hw)
    return ExportOptions(
        imgsz=(height, width),
        batch=config.batch_size,
        device=device,
        data=config.calibration_data,
        half=config.half,
        int8=config.int8,
        per_tensor=config.per_tensor,
        dynamic=config.dynamic,
        simplify=config.simplify,
        optimize=config.optimize,
        opset=config.opset,
        nms=config.nms,
        conf_thres=config.conf_thres,
        iou_thres=config.iou_thres,
        max_det=config.nms_max_det,
        agnostic=config.agnostic_nms,
        keras=config.keras,
        workspace=config.workspace,
        cache=config.cache,
        verbose=config.verbose,
    )


def compute_input_stride(model: Any) -> int:
    """Number of pixels that height and width of the input must be multiples of."""
    return max(int(torch.as_tensor(model.stride).max()), MIN_STRIDE)


def export_one(path: Path, model: nn.Module, fmt: ExportFormat, options: ExportOptions) -> Path:
    """Export to one format, compare with PyTorch and return the file or folder.

    Raises:
        InputError: a setting is not supported, a package is missing, or the file does not agree with PyTorch.
    """
    options = drop_unsupported_options(fmt, options)
    job = build_job(path, model, options, normalized=fmt.normalized)
    started = perf_counter()
    target = fmt.export(job)
    seconds = perf_counter() - started
    LOGGER.info(f"{fmt.title}: saved to {target} ({compute_size_mb(target):.1f} MB) in {seconds:.1f} s")
    if fmt.runs_here:
        precision = {"half": True} if fmt.stores_half else {}
        report = check_export(job.with_options(**precision), target, measure=build_accuracy_meter(job))
        LOGGER.info(f"{fmt.title}: {report.text}")
    return target


def drop_unsupported_options(fmt: ExportFormat, options: ExportOptions) -> ExportOptions:
    """The options without those that the format does not support, with a warning for each.

    Raises:
        InputError: INT8 or NMS is not supported.
    """
    defaults = ExportOptions()
    changes: dict[str, Any] = {}
    for name in FLAGS:
        value, default = getattr(options, name), getattr(defaults, name)
        if value == default or name in fmt.options:
            continue
        flag = _to_flag(name)
        if name in REQUIRED:
            raise InputError(f"{flag} is not supported for {fmt.title}; leave it out, or export {fmt.title} separately")
        LOGGER.warning(f"WARNING: {flag} is ignored: {fmt.title} does not support it")
        changes[name] = default
    return replace(options, **changes)


def build_job(path: Path, model: Any, options: ExportOptions, *, normalized: bool = False) -> ExportJob:
    """Prepare the network of a checkpoint for one format.

    Args:
        model: fused, in evaluation mode, on the export device.
        normalized: divide boxes by width and height of the input.

    Raises:
        InputError: the task does not support INT8 or NMS.
    """
    task = find_task(model.task)
    if options.int8 and not task.supports_int8:
        raise InputError(f"{path}: --int8 is not supported for task {task.name!r}; export with --half or in FP32")
    names = {int(index): str(name) for index, name in model.names.items()}
    nms = None
    if options.nms:
        if not task.supports_nms:
            raise InputError(f"{path}: --nms is not supported for task {task.name!r}; leave it out")
        nms = GraphNms(
            model.nc,
            conf_thres=options.conf_thres,
            iou_thres=options.iou_thres,
            max_det=options.max_det,
            agnostic=options.agnostic,
        )
    network = ExportNetwork(model, normalized=normalized and nms is None, nms=nms, dynamic=options.dynamic)
    info = ModelInfo(
        stride=compute_input_stride(model),
        names=names,
        task=task.name,
        channels=int(model.yaml.get("ch", 3)) if getattr(model, "yaml", None) else 3,
        imgsz=options.imgsz,
        batch=options.batch,
        dynamic=options.dynamic,
        nms=options.nms,
        normalized=network.normalized,
        version=VERSION,
        semantic=getattr(model, "semantic", None),
    )
    return ExportJob(path, network, info, options)


def compute_size_mb(path: Path) -> float:
    """Size of a file or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def _warn_ignored_flags(config: ExportConfig) -> None:
    if "topk_per_class" in config.explicit:
        LOGGER.warning("WARNING: --topk-per-class is ignored: --max-det limits the detections of all classes together")
    if config.inplace:
        LOGGER.warning("WARNING: --inplace is ignored: exported graphs never decode in place")
    nms_flags = {"agnostic_nms", "max_det", "topk_all", "conf_thres", "iou_thres"} & config.explicit
    if nms_flags and not config.nms:
        LOGGER.warning(f"WARNING: {', '.join(map(_to_flag, sorted(nms_flags)))}: ignored without --nms")


def _to_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _format_problem(fmt: ExportFormat, path: Path, error: Exception) -> str:
    """One line for a failed export: the message of a user or disk error, or the start of a converter's."""
    if isinstance(error, InputError):
        return f"{fmt.title}: {error}"
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        location = error.filename2 or error.filename or path.parent
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "make it writable"
        return f"{fmt.title}: {location}: {error.strerror}; {remedy}, or copy the checkpoint to another folder"
    reason = " ".join(str(error).split())[:300] or "no message"
    remedy = "add --verbose for the traceback"
    with suppress(OSError):  # the file or its folder may be gone
        free_bytes = shutil.disk_usage(path.parent).free
        if free_bytes < path.stat().st_size:  # most converters do not name a full disk as the reason
            remedy = f"only {free_bytes / 1e6:.1f} MB are free there: free some space"
    return f"{fmt.title}: cannot convert {path}: {type(error).__name__}: {reason}; {remedy}"


def _log_summary(files: Sequence[str], problems: Sequence[str], config: ExportConfig) -> None:
    """Log the number of failures and how to use the last file."""
    if problems:
        total = len(files) + len(problems)
        LOGGER.warning(f"WARNING: {len(problems)} of {total} exports failed, see above")
    if files:
        file = f'"{files[-1]}"' if " " in files[-1] else files[-1]
        size = " ".join(map(str, dict.fromkeys(config.size_hw)))
        LOGGER.info(
            f"Use it: python detect.py --weights {file} --imgsz {size}"
            f" | python val.py --weights {file} --imgsz {max(config.size_hw)} --data ..."
            f" | torch.hub.load('.', 'custom', path={files[-1]!r}, source='local')"
        )
