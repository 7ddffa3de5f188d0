"""Segmenters and classifiers in every format that always runs: both outputs, masks and probabilities as PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from lively_jobs import lively_job
from torch import Tensor

from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export.base import ExportJob
from utils.export.onnx import export_onnx
from utils.export.torchscript import export_torchscript
from utils.export.verify import MismatchError, check_export

CPU = torch.device("cpu")
NEEDS_OPENVINO = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
DYNAMIC = [("torchscript", True), ("onnx", True), pytest.param("openvino", False, marks=NEEDS_OPENVINO)]
FORMATS = ("torchscript", "onnx", pytest.param("openvino", marks=NEEDS_OPENVINO))
Exported = Callable[..., tuple[ExportJob, Path]]


@pytest.mark.parametrize(
    ("include", "dynamic"),
    [("torchscript", True), ("onnx", True), pytest.param("openvino", False, marks=NEEDS_OPENVINO)],
)
def test_a_segmenter_keeps_its_prototypes_and_masks(include: str, dynamic: bool, exported: Exported) -> None:
    job, file = exported(include, task="segment", dynamic=dynamic)
    backend = load_backend(file, device=CPU)
    assert backend.task == "segment"
    images = torch.rand(3, 3, 64, 96)
    found = [part for part in backend.forward(images) if isinstance(part, Tensor)]
    expected = job.network(images)
    assert [tuple(part.shape) for part in found] == [(3, 240, 15), (3, 8, 16, 24)]
    torch.testing.assert_close(found, list(expected), atol=1e-3, rtol=1e-4)
    report = check_export(job, file)
    assert report.figures is not None and report.figures.compared > 10
    assert report.figures.mask is not None and report.figures.mask > 0.99
    assert f"masks agree to an IoU of {report.figures.mask:.4f}" in report.text


@pytest.mark.parametrize("include", FORMATS)
def test_a_classifier_keeps_its_logits(include: str, exported: Exported) -> None:
    job, file = exported(include, task="classify")
    backend = load_backend(file, device=CPU)
    assert backend.task == "classify"
    images = torch.rand(3, 3, 64, 96)
    torch.testing.assert_close(backend.forward(images), job.network(images))
    report = check_export(job, file)
    assert report.figures is not None and report.figures.relative is not None and report.figures.relative < 1e-4
    assert report.text.endswith(f"{report.figures.relative:.2g} of the mean logit")


def test_onnx_names_both_outputs(exported: Exported) -> None:
    _, file = exported("onnx", task="segment")
    assert [value.name for value in onnx.load(file).graph.output] == ["output0", "output1"]


class _Changed(torch.nn.Module):
    """A network whose outputs go through a function."""

    def __init__(self, network: Any, change: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images: Tensor) -> Any:
        return self.change(*self.network(images))


def wrong_codes(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat((rows[..., :7], rows[..., 7:].flip(-1)), dim=-1), prototypes


def few_wrong_codes(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
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
        (wrong_codes, r"the mask of an object of class \d has an IoU of 0\.\d+ with PyTorch's, allowed is 0\.99"),
        (few_wrong_codes, r"the mask of an object .* allowed is 0\.99 .*, masks agree to an IoU of 0\."),
        (wrong_prototypes, r"prototypes are off by \d+\.\d+%"),
        (small_prototypes, r"prototypes: \(\d, 8, 8, 12\) instead of \(\d, 8, 16, 24\)"),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_wrong_masks_fail_the_export(change: Callable[..., Any], message: str, quiet: bool, tmp_path: Path) -> None:
    job = lively_job(tmp_path, task="segment")
    if quiet:  # nothing is detected: the best rows are compared
        for conv in job.network.model.model[-1].m:
            conv.bias.data[4::15] = -9.0
    file = export_torchscript(replace(job, network=_Changed(job.network, change)))
    with pytest.raises(MismatchError, match=message):
        check_export(job, file)
    assert check_export(job, export_onnx(job)).figures.mask > 0.99


def test_missing_prototypes_fail_the_export(tmp_path: Path) -> None:
    job = lively_job(tmp_path, task="segment")
    file = export_torchscript(replace(job, network=_Changed(job.network, no_prototypes)))
    with pytest.raises(InputError, match=r"its metadata says task segment and .*, but the output has shape \("):
        check_export(job, file)
