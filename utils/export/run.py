"""One run of export.py: every checkpoint in every format, each checked, with one line for each that fails."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from models.checkpoint import find_weights, load_model
from models.yolo import check_image_size, task_of
from utils.backends.info import ModelInfo
from utils.config.export import ExportConfig
from utils.core.device import describe_device, select_device
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.script import ENVIRONMENT
from utils.core.version import VERSION
from utils.export.accuracy import accuracy_meter
from utils.export.base import ExportJob, ExportNetwork, ExportOptions
from utils.export.nms_graph import GraphNms
from utils.export.table import ExportFormat, export_formats
from utils.export.verify import check_export

MIN_STRIDE = 32
REFUSED = ("int8", "nms")  # without these the file would not be what was asked for; others are only less than wished
NOT_INT8 = ("semantic", "joint")
FLAGS = ("half", "int8", "per_tensor", "dynamic", "simplify", "optimize", "opset", "keras", "nms", "cache")


@dataclass(frozen=True)
class ExportSummary:
    """What a run did.

    Attributes:
        files: the files and folders written that agree with PyTorch.
        problems: one line for each export that failed.
    """

    files: tuple[str, ...]
    problems: tuple[str, ...]


def export_all(config: ExportConfig) -> ExportSummary:
    """Write every checkpoint in every format; a format that fails does not stop the others.

    Raises:
        InputError: a setting or a checkpoint cannot be used.
    """
    config = config.check()
    kinds = export_formats(config.include)
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    _warn_of_settings(config, kinds)
    files, problems = [], []
    for weights in config.weights:
        path = find_weights(weights)
        model: Any = load_model(str(path), device=device)
        options = export_options(config, model, device)
        for kind in kinds:
            try:
                files.append(str(export_one(path, model, kind, options)))
            except Exception as error:  # converters raise what they like, and the other formats may succeed
                if config.verbose:
                    LOGGER.info(traceback.format_exc())
                problems.append(_one_line(kind, path, error))
                LOGGER.error(f"error: {problems[-1]}")
    _report(files, problems, config)
    return ExportSummary(tuple(files), tuple(problems))


def export_options(config: ExportConfig, model: Any, device: torch.device) -> ExportOptions:
    """The settings of a run for one checkpoint: its stride decides on the size."""
    stride = stride_of(model)
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
        max_det=config.most_detections,
        agnostic=config.agnostic_nms,
        keras=config.keras,
        workspace=config.workspace,
        cache=config.cache,
        verbose=config.verbose,
    )


def stride_of(model: Any) -> int:
    """What the sides of the input are multiples of."""
    return max(int(torch.as_tensor(model.stride).max()), MIN_STRIDE)


def export_one(path: Path, model: nn.Module, kind: ExportFormat, options: ExportOptions) -> Path:
    """Write one format and compare it with PyTorch; the file or folder.

    Raises:
        InputError: the settings cannot be had, a package is missing, or the file does not agree with PyTorch.
    """
    options = honoured(kind, options)
    job = build_job(path, model, options, normalized=kind.normalized)
    started = perf_counter()
    target = kind.export(job)
    seconds = perf_counter() - started
    LOGGER.info(f"{kind.title}: {target} ({megabytes(target):.1f} MB) written in {seconds:.1f} s")
    if kind.runs_here:
        made = job.changed(half=True) if kind.stores_half else job
        report = check_export(made, target, measure=accuracy_meter(job) if options.int8 else None)
        LOGGER.info(f"{kind.title}: {report.text}")
    return target


def honoured(kind: ExportFormat, options: ExportOptions) -> ExportOptions:
    """The settings without those that the format does not know, each named.

    Raises:
        InputError: one of them decides what the file is.
    """
    defaults = ExportOptions()
    changes: dict[str, Any] = {}
    for name in FLAGS:
        value, default = getattr(options, name), getattr(defaults, name)
        if value == default or name in kind.options:
            continue
        flag = f"--{name.replace('_', '-')}"
        if name in REFUSED:
            raise InputError(f"{flag}: not offered for {kind.title}; leave it out, or export {kind.title} by itself")
        LOGGER.warning(f"WARNING: {flag} is ignored: it does nothing for {kind.title}")
        changes[name] = default
    return replace(options, **changes)


def build_job(path: Path, model: Any, options: ExportOptions, *, normalized: bool = False) -> ExportJob:
    """The checkpoint's network prepared for one format.

    Args:
        model: fused, in evaluation mode, on the export's device.

    Raises:
        InputError: NMS is wanted of a network that gives no boxes alone.
    """
    task = task_of(model)
    if options.int8 and task in NOT_INT8:
        raise InputError(f"{path}: --int8 is not offered for semantic masks yet; export with --half or without")
    names = {int(number): str(name) for number, name in model.names.items()}
    nms = None
    if options.nms:
        if task != "detect":
            raise InputError(f"{path}: --nms is for detection models, this one is for {task}; leave it out")
        nms = GraphNms(
            model.nc,
            conf_thres=options.conf_thres,
            iou_thres=options.iou_thres,
            max_det=options.max_det,
            agnostic=options.agnostic,
        )
    network = ExportNetwork(model, normalized=normalized and nms is None, nms=nms, dynamic=options.dynamic)
    info = ModelInfo(
        stride=stride_of(model),
        names=names,
        task=task,
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


def megabytes(path: Path) -> float:
    """Size of a file, or of the files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def _warn_of_settings(config: ExportConfig, kinds: Sequence[ExportFormat]) -> None:
    """Name flags that do nothing at all."""
    if "topk_per_class" in config.given:
        LOGGER.warning("WARNING: --topk-per-class is ignored: --max-det limits the detections of all classes together")
    if config.inplace:
        LOGGER.warning("WARNING: --inplace is ignored: an exported graph decodes its boxes out of place")
    if not config.nms and (given := {"agnostic_nms", "max_det", "topk_all", "conf_thres", "iou_thres"} & config.given):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given))
        LOGGER.warning(f"WARNING: {flags}: ignored without --nms")


def _one_line(kind: ExportFormat, path: Path, error: Exception) -> str:
    """What went wrong: an input error's own message, what the disk refuses, or the first words of a converter's."""
    if isinstance(error, InputError):
        return f"{kind.title}: {error}"
    if isinstance(error, OSError) and error.errno in ENVIRONMENT:
        place = error.filename2 or error.filename or path.parent
        return f"{kind.title}: {place}: {error.strerror}; free the place, or copy the checkpoint to another folder"
    reason = " ".join(str(error).split())[:300] or "no reason given"
    return f"{kind.title}: {path} cannot be converted: {type(error).__name__}: {reason}; --verbose shows more"


def _report(files: Sequence[str], problems: Sequence[str], config: ExportConfig) -> None:
    """The last lines of the log: what failed, and how to use what was written."""
    if problems:
        total = len(files) + len(problems)
        LOGGER.warning(f"WARNING: {len(problems)} of {total} exports failed, named above")
    if files:
        shown = f'"{files[-1]}"' if " " in files[-1] else files[-1]
        size = " ".join(map(str, dict.fromkeys(config.size_hw)))
        LOGGER.info(
            f"Use it: python detect.py --weights {shown} --imgsz {size}"
            f" | python val.py --weights {shown} --imgsz {max(config.size_hw)} --data ..."
            f" | torch.hub.load('.', 'custom', path={files[-1]!r}, source='local')"
        )
