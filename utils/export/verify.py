"""The comparison that follows every export: the file, opened by its runtime, against PyTorch on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import Backend
from utils.backends.packages import MissingPackageError
from utils.backends.registry import find_format, load_backend
from utils.core.errors import InputError
from utils.core.types import Suppressed
from utils.export.base import ExportJob
from utils.export.images import load_batch
from utils.export.matching import (
    Figures,
    Thresholds,
    Tolerance,
    compare_detections,
    compare_masks,
    compare_raw,
    compare_scores,
    compare_semantic_masks,
)

FP32 = Tolerance(pixels=1.0, score=0.01, relative=1e-4, iou=0.02, tie=1e-4)
FP16_SIDE, FP16_SCORE, FP16_MASK, FP16_AGREEMENT = 0.01, 0.02, 0.95, 0.99
MAX_DROP = 0.02  # of mAP, or of top-1 accuracy
Measure = Callable[[Callable[[Tensor], Any], tuple[int, int] | None], dict[str, float]]  # (network, its only size)


class MismatchError(InputError):
    """An exported file does not do what its checkpoint does."""


@dataclass(frozen=True)
class Report:
    """What the comparison gave.

    Attributes:
        text: for the log.
        figures: the differences; None where nothing was compared.
    """

    text: str
    figures: Figures | None = None


def check_export(job: ExportJob, path: Path, *, measure: Measure | None = None) -> Report:
    """Open the file and compare it with the network it was made from.

    Args:
        measure: accuracy of a function on the user's data, by the title of the measure; decides on INT8 exports,
            whose differences are else reported only.

    Raises:
        MismatchError: the differences exceed what the precision of the export explains; the message has the figures.
        InputError: the file cannot be opened.
    """
    kind = find_format(str(path))
    device = job.options.device if kind.gpu else torch.device("cpu")
    if device.type == "cpu" and not kind.cpu:
        return Report(f"not compared with PyTorch: {kind.title} runs on an accelerator, this export is on the CPU")
    try:
        backend = load_backend(path, device=device, fp16=job.options.half and device.type != "cpu")
    except MissingPackageError as error:
        return Report(f"not compared with PyTorch: {error}")
    figures = compare(job, backend)
    differences = figures.text(boxes=job.info.task != "classify")
    text = f"differs from PyTorch by {differences}"
    if job.options.int8:
        return Report(text + _accuracy_text(job, path, backend, measure), figures)
    if problems := figures.problems:
        raise MismatchError(f"{path}: does not agree with PyTorch: {problems[0]} ({differences}); the file is kept")
    if not figures.compared and figures.relative is None:
        return Report(
            "not compared with PyTorch: on the images nothing scores above --conf-thres; give --data", figures
        )
    return Report(text, figures)


@torch.inference_mode()
def compare(job: ExportJob, backend: Backend) -> Figures:
    """The differences on real images, of a dynamic graph in a second size too."""
    tolerance = tolerance_of(job)
    sizes = [job.options.imgsz]
    if job.options.dynamic and backend.fixed_hw is None:
        height, width = job.options.imgsz
        sizes.append((height, max(width // 2 // job.info.stride, 1) * job.info.stride))
    total = Figures()
    for size_hw in sizes:
        images = load_batch(job, size_hw)
        reference = reference_outputs(job, images)
        found = backend.forward(images.to(backend.device, backend.dtype))
        total = total + compare_outputs(job, reference, found, size_hw, tolerance)
    return total


def tolerance_of(job: ExportJob) -> Tolerance:
    """How far an export of these settings may be off."""
    if job.options.half or job.options.int8:
        pixels = FP16_SIDE * max(job.options.imgsz)
        scores = {"score": FP16_SCORE, "tie": 5e-3, "mask": FP16_MASK, "agreement": FP16_AGREEMENT}
        return Tolerance(pixels=pixels, relative=0.03, iou=0.05, **scores)
    return FP32


def reference_outputs(job: ExportJob, images: Tensor) -> Sequence[Tensor]:
    """What PyTorch makes of the images in FP32: decoded rows and further outputs, on the CPU."""
    outputs = job.network.model(images.to(job.options.device))
    return [output.float().cpu() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def compare_outputs(
    job: ExportJob, reference: Sequence[Tensor], found: Any, size_hw: tuple[int, int], tolerance: Tolerance
) -> Figures:
    """The differences of one batch of images of a size, in the way that suits the task."""
    if isinstance(found, Suppressed):
        options = job.options
        limits = Thresholds(options.conf_thres, options.iou_thres, options.max_det, options.agnostic)
        rows = [image[image[:, 4] > limits.conf] for image in found.rows.float().cpu()]
        return compare_detections(reference[0], rows, limits, tolerance)
    if job.info.task in ("semantic", "joint"):
        return _compare_semantic(reference, found, tolerance)
    parts = [found] if isinstance(found, Tensor) else found
    outputs = [part.float().cpu() for part in parts if isinstance(part, Tensor)]  # PyTorch adds a list of raw maps
    if outputs[0].shape != reference[0].shape:
        shapes = f"output of shape {tuple(outputs[0].shape)} instead of {tuple(reference[0].shape)}"
        return Figures(problems=[shapes])
    if reference[0].ndim == 2:
        return compare_scores(reference[0], outputs[0], tolerance)
    nm = reference[1].shape[1] if job.info.task == "segment" else 0  # prototypes
    figures = compare_detections(reference[0], outputs[0], Thresholds(), tolerance, nm=nm)
    figures = figures + compare_raw(reference[0], outputs[0], tolerance, nm=nm, rows=not figures.compared)
    return figures + compare_masks(reference, outputs, size_hw, tolerance) if nm else figures


def _compare_semantic(reference: Sequence[Tensor], found: Any, tolerance: Tolerance) -> Figures:
    """The differences of logits, which stand last, and of the decoded rows before them if there are any."""
    outputs = [found.float().cpu()] if isinstance(found, Tensor) else [_rows_of(part) for part in found]
    for own, other in zip(outputs, reference, strict=True):
        if own.shape != other.shape:
            return Figures(problems=[f"output of shape {tuple(own.shape)} instead of {tuple(other.shape)}"])
    figures = compare_semantic_masks(reference[-1], outputs[-1], tolerance)
    if len(outputs) == 1:
        return figures
    boxes = compare_detections(reference[0], outputs[0], Thresholds(), tolerance)
    return figures + boxes + compare_raw(reference[0], outputs[0], tolerance, rows=not boxes.compared)


def _rows_of(part: Any) -> Tensor:
    """An output's tensor on the CPU; of a detector in PyTorch its rows, which its raw maps follow."""
    tensor = part if isinstance(part, Tensor) else part[0]
    return tensor.float().cpu()


def _accuracy_text(job: ExportJob, path: Path, backend: Backend, measure: Measure | None) -> str:
    """Accuracy before and after, for the log; MismatchError where too much is lost."""
    if measure is None:
        return "; its accuracy was not measured, which needs --data"
    before = measure(lambda images: job.network.model(images.to(job.options.device)), backend.fixed_hw)
    after = measure(lambda images: backend.forward(images), backend.fixed_hw)
    text = ", ".join(f"{title} {value:.3f}, PyTorch {before[title]:.3f}" for title, value in after.items())
    for title, value in after.items():
        drop = before[title] - value
        if not drop <= MAX_DROP:
            raise MismatchError(
                f"{path}: INT8 loses {100 * drop:.1f} points of {title} ({text}), more than {100 * MAX_DROP:.0f}; "
                "calibrate on more images like those it will see, or leave --int8 out"
            )
    return f"; {text}"
