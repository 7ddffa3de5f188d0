"""Comparison of an exported file with PyTorch on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.backends.base import Backend
from utils.backends.outputs import flatten_outputs
from utils.backends.registry import find_format, load_backend
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import MissingPackageError
from utils.core.types import NMSOutput
from utils.export.base import ExportJob
from utils.export.images import load_comparison_images
from utils.metrics.agreement import Agreement, Comparison, Tolerance
from utils.tasks.registry import find_task

FP32 = Tolerance(relative=1e-4, agreeing=1.0, pixels=1.0, score=0.01)
FP16_CORNER = 0.01  # offset of a box corner, over the longer side of the input
MAX_DROP = 0.02  # of mAP, top-1 accuracy or mIoU
Measure = Callable[[Callable[[Tensor], Any], tuple[int, int] | None], dict[str, float]]  # (network, fixed input size)


class MismatchError(InputError):
    """An exported file does not compute what its checkpoint computes."""


@dataclass(frozen=True)
class Report:
    """Result of a comparison.

    Attributes:
        text: for the log.
        relative: largest relative error of a raw output; None with NMS in the graph.
        agreement: of the predictions, where they were compared.
    """

    text: str
    relative: float | None = None
    agreement: Agreement | None = None


def check_export(job: ExportJob, path: Path, *, measure: Measure | None = None) -> Report:
    """Open the file with its runtime and compare it with PyTorch.

    Args:
        measure: accuracy of a network by metric, which then decides instead of the differences. Without it, the
            differences of INT8 files are reported only.

    Raises:
        MismatchError: the file differs by more than its precision explains.
        InputError: the file cannot be opened.
    """
    fmt = find_format(str(path))
    device = job.options.device if fmt.gpu else torch.device("cpu")
    if device.type == "cpu" and not fmt.cpu:
        return Report(f"not compared with PyTorch: {fmt.title} runs on an accelerator, this export is on the CPU")
    try:
        backend = load_written_file(path, device, fp16=job.options.half and device.type != "cpu")
    except MissingPackageError as error:
        return Report(f"not compared with PyTorch: {error}")
    tolerance = get_tolerance(job)
    relative, agreement = compare(job, backend, path, tolerance)
    texts, problems = [], []
    if relative is not None:
        texts.append(f"relative error {relative:.2g}")
        if not relative <= tolerance.relative:
            problems.append(f"{texts[-1]}, allowed is {tolerance.relative:g}")
    if agreement is not None:
        texts.append(f"{agreement.agreeing} of {agreement.total} predictions agree")
        if agreement.agreeing < tolerance.agreeing * agreement.total:
            problems.append(f"{texts[-1]}, at least {tolerance.agreeing:.0%} must")
    text = f"compared with PyTorch: {', '.join(texts)}"
    if measure is not None:
        text += f"; {_compare_accuracy(job, path, backend, measure)}"
    elif job.options.int8:
        text += "; accuracy not measured, which needs --data"
    elif problems:
        raise MismatchError(f"{path}: does not agree with PyTorch: {'; '.join(problems)}; the file is kept")
    elif relative is None and agreement == Agreement():
        text = "not compared with PyTorch: nothing in the images scores above --conf-thres; give --data"
    return Report(text, relative, agreement)


def load_written_file(path: Path, device: torch.device, *, fp16: bool) -> Backend:
    """Load a file that this process has written, with a warning if others need --trust for it."""
    try:
        return load_backend(path, device=device, fp16=fp16)
    except UntrustedError as error:
        LOGGER.warning(f"WARNING: {error}")
        return load_backend(path, device=device, fp16=fp16, trust=True)


def get_tolerance(job: ExportJob) -> Tolerance:
    """Tolerance of an export's precision."""
    if job.options.half or job.options.int8:
        return Tolerance(relative=0.03, agreeing=0.9, pixels=FP16_CORNER * max(job.options.imgsz), score=0.02)
    return FP32


@torch.inference_mode()
def compare(
    job: ExportJob, backend: Backend, path: Path, tolerance: Tolerance
) -> tuple[float | None, Agreement | None]:
    """Relative error of the raw outputs, and agreement of the predictions unless the former decides alone.

    A dynamic graph is compared at two image sizes.
    """
    options = job.options
    sizes = [options.imgsz]
    if options.dynamic and backend.fixed_hw is None:
        height, width = options.imgsz
        sizes.append((height, max(width // 2 // job.info.stride, 1) * job.info.stride))
    nms = {"conf_thres": options.conf_thres, "iou_thres": options.iou_thres, "max_det": options.max_det}
    nms["agnostic"] = options.agnostic
    errors, agreement = [], None if tolerance is FP32 and not options.nms else Agreement()
    for size_hw in sizes:
        images = load_comparison_images(job, size_hw)
        reference = _to_cpu(job.network.model(images.to(options.device)))
        outputs: Any = backend.forward(images.to(backend.device, backend.dtype))
        if isinstance(outputs, NMSOutput):
            outputs = NMSOutput(outputs.rows.cpu())
        else:
            outputs = _to_cpu(outputs)
            errors.append(compute_relative_error(path, reference, outputs))
        if agreement is not None:
            settings = Comparison(tolerance, size_hw, nms)
            agreement += find_task(job.info.task).compare_outputs(reference, outputs, settings)
    return float(torch.tensor(errors).max()) if errors else None, agreement


def _to_cpu(outputs: Any) -> list[Tensor]:
    return [output.float().cpu() for output in flatten_outputs(outputs)]


def compute_relative_error(path: Path, reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Largest mean absolute difference over mean absolute value of an output.

    The first four columns of rows (B, N, C), boxes in pixels, are compared apart: the other values are far smaller.

    Raises:
        MismatchError: the shapes differ.
    """
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (reference, outputs[: len(reference)])]
    if shapes[0] != shapes[1]:
        raise MismatchError(f"{path}: does not agree with PyTorch: output shapes {shapes[1]} instead of {shapes[0]}")
    errors = []
    for pair in zip(reference, outputs, strict=False):
        parts = [tensor.tensor_split([4], dim=-1) if tensor.ndim == 3 else [tensor] for tensor in pair]
        for expected, output in zip(*parts, strict=True):
            if expected.numel():
                errors.append((output - expected).abs().mean() / expected.abs().mean().clamp(min=1e-12))
    return float(torch.stack(errors).max())  # NaN if one is


def _compare_accuracy(job: ExportJob, path: Path, backend: Backend, measure: Measure) -> str:
    """Accuracy of both, for the log; MismatchError if the file loses too much."""

    def run_pytorch(images: Tensor) -> Any:
        images = images.to(job.options.device)
        return NMSOutput(job.network(images)) if job.info.nms else job.network.model(images)

    before, after = measure(run_pytorch, backend.fixed_hw), measure(backend.forward, backend.fixed_hw)
    text = ", ".join(f"{title} {value:.3f}, PyTorch {before[title]:.3f}" for title, value in after.items())
    precision, remedy = "FP16", "leave --half out"
    if job.options.int8:
        precision, remedy = "INT8", "calibrate on more images like those it will see, or leave --int8 out"
    for title, value in after.items():
        drop = before[title] - value
        if not drop <= MAX_DROP:
            raise MismatchError(
                f"{path}: {precision} loses {100 * drop:.1f} points of {title} ({text}), "
                f"more than {100 * MAX_DROP:.0f}; {remedy}"
            )
    return text
