"""Exports of segmenters and classifiers: outputs and comparison with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from confident_jobs import build_confident_job
from torch import Tensor

from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export.base import ExportJob
from utils.export.onnx import export_onnx
from utils.export.torchscript import export_torchscript
from utils.export.verify import MismatchError, check_export, get_tolerance
from utils.metrics.agreement import Agreement, Comparison
from utils.tasks.registry import find_task

CPU = torch.device("cpu")
NEEDS_OPENVINO = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
DYNAMIC = [("torchscript", True), ("onnx", True), pytest.param("openvino", False, marks=NEEDS_OPENVINO)]
FORMATS = ("torchscript", "onnx", pytest.param("openvino", marks=NEEDS_OPENVINO))
Exported = Callable[..., tuple[ExportJob, Path]]


@pytest.mark.parametrize(
    ("include", "dynamic"),
    [("torchscript", True), ("onnx", True), pytest.param("openvino", False, marks=NEEDS_OPENVINO)],
)
def test_segmenter_outputs(include: str, dynamic: bool, exported: Exported) -> None:
    job, file = exported(include, task="segment", dynamic=dynamic)
    backend = load_backend(file, device=CPU)
    assert backend.task == "segment"
    images = torch.rand(3, 3, 64, 96)
    outputs = [part for part in backend.forward(images) if isinstance(part, Tensor)]
    expected = job.network(images)
    assert [tuple(part.shape) for part in outputs] == [(3, 240, 15), (3, 8, 16, 24)]
    torch.testing.assert_close(outputs, list(expected), atol=1e-3, rtol=1e-4)
    report = check_export(job, file)
    assert report.relative is not None and report.relative < 1e-4
    assert report.text == f"compared with PyTorch: relative error {report.relative:.2g}"


@pytest.mark.parametrize("include", FORMATS)
def test_classifier_outputs(include: str, exported: Exported) -> None:
    job, file = exported(include, task="classify")
    backend = load_backend(file, device=CPU)
    assert backend.task == "classify"
    images = torch.rand(3, 3, 64, 96)
    torch.testing.assert_close(backend.forward(images), job.network(images))
    report = check_export(job, file)
    assert report.relative is not None and report.relative < 1e-4


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_half_precision_predictions_agree(task: str, exported: Exported) -> None:
    report = check_export(*exported("onnx", task=task, half=True))
    assert report.agreement is not None
    assert report.agreement.agreeing >= (10 if task == "segment" else 2)


def test_wrong_probabilities_fail_in_half_precision(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    job, file = exported("onnx", task="classify", half=True)
    backend = load_backend(file, device=CPU)
    outputs = backend.forward(torch.rand(4, 3, 64, 96))
    settings = Comparison(get_tolerance(job), (64, 96), {})
    task = find_task("classify")
    assert task.compare_outputs([outputs], [outputs + 1], settings) == Agreement(4, 4), "equal by softmax"
    assert task.compare_outputs([outputs], [outputs.flip(1)], settings).agreeing < 4


def test_onnx_output_names(exported: Exported) -> None:
    _, file = exported("onnx", task="segment")
    assert [value.name for value in onnx.load(file).graph.output] == ["output0", "output1"]


class _Changed(torch.nn.Module):
    """A network whose outputs go through a function."""

    def __init__(self, network: Any, change: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images: Tensor) -> Any:
        return self.change(*self.network(images))


def wrong_coefficients(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat((rows[..., :7], rows[..., 7:].flip(-1)), dim=-1), prototypes


def few_wrong_coefficients(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat((rows[..., :7], rows[..., 7:8] + 0.5, rows[..., 8:]), dim=-1), prototypes


def wrong_prototypes(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    return rows, prototypes.flip(-1)


def small_prototypes(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    return rows, prototypes[..., ::2, ::2]


def no_prototypes(rows: Tensor, prototypes: Tensor) -> Tensor:
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong_coefficients, "relative error"),
        (few_wrong_coefficients, "relative error"),
        (wrong_prototypes, "relative error"),
        (small_prototypes, r"output shapes \[\(\d, 240, 15\), \(\d, 8, 8, 12\)\] instead of"),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_wrong_masks_fail_the_export(
    change: Callable[..., Any], message: str, quiet: bool, half: bool, tmp_path: Path
) -> None:
    job = build_confident_job(tmp_path, task="segment")
    if quiet:  # nothing is detected
        for conv in job.network.model.model[-1].m:
            conv.bias.data[4::15] = -9.0
    file = export_torchscript(replace(job, network=_Changed(job.network, change)))
    with pytest.raises(MismatchError, match=message):
        check_export(job.with_options(half=half), file)
    assert check_export(job, export_onnx(job)).relative < 1e-4


@pytest.mark.parametrize("change", [wrong_coefficients, few_wrong_coefficients, wrong_prototypes])
def test_objects_with_other_masks_disagree(change: Callable[..., Any], tmp_path: Path) -> None:
    job = build_confident_job(tmp_path, task="segment")
    outputs = job.network(torch.rand(2, 3, 64, 96))
    nms = {"conf_thres": 0.25, "iou_thres": 0.45, "max_det": 100, "agnostic": False}
    settings = Comparison(get_tolerance(job.with_options(half=True)), (64, 96), nms)
    same = find_task("segment").compare_outputs(outputs, outputs, settings)
    assert same.agreeing == same.total > 10
    other = find_task("segment").compare_outputs(outputs, change(*outputs), settings)
    assert other.agreeing < 0.9 * same.total


def test_missing_prototypes_fail_the_export(tmp_path: Path) -> None:
    job = build_confident_job(tmp_path, task="segment")
    file = export_torchscript(replace(job, network=_Changed(job.network, no_prototypes)))
    with pytest.raises(InputError, match=r"its metadata says task segment and .*, but the output has shape \("):
        check_export(job, file)
