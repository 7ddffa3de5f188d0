"""The check after an export: it passes what is right and names what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from lively_jobs import lively_job
from onnx import numpy_helper
from tiny_jobs import tiny_job

from utils.backends.packages import MissingPackageError
from utils.export import verify
from utils.export.base import ExportJob
from utils.export.onnx import export_onnx
from utils.export.torchscript import export_torchscript
from utils.export.verify import MismatchError, check_export, tolerance_of

Exported = Callable[..., tuple[ExportJob, Path]]


def spoil(file: Path, target: Path, *, layer: int, factor: float) -> Path:
    """A copy of an ONNX file with the weights of a convolution multiplied."""
    model = onnx.load(file)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    chosen = weights[convolutions[layer].input[1]]
    chosen.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(chosen) * factor, chosen.name))
    onnx.save(model, target)
    return target


def test_a_right_export_passes_with_its_figures(exported: Exported) -> None:
    report = check_export(*exported("onnx"))
    assert report.figures is not None
    assert report.figures.compared > 20
    assert report.figures.pixels < 0.01
    assert report.text.startswith("differs from PyTorch by at most ")


@pytest.mark.parametrize(("layer", "factor"), [(0, 1.1), (3, 0.9), (-1, 1.05), (-1, -1.0), (0, float("nan"))])
def test_a_broken_export_fails_with_its_figures(layer: int, factor: float, exported: Exported, tmp_path: Path) -> None:
    job, file = exported("onnx")
    broken = spoil(file, tmp_path / "broken.onnx", layer=layer, factor=factor)
    with pytest.raises(MismatchError, match=r"broken\.onnx: does not agree with PyTorch: .* \(.*\); the file"):
        check_export(job, broken)


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_a_network_that_detects_nothing_is_compared_too(factor: float, tmp_path: Path) -> None:
    job = lively_job(tmp_path)
    for conv in job.network.model.head.m:
        conv.bias -= 6.0
    file = export_onnx(job)
    report = check_export(job, file)
    assert report.figures is not None and not report.figures.compared
    assert "whole outputs, as nothing is detected" in report.text
    broken = spoil(file, tmp_path / "broken.onnx", layer=0, factor=factor)
    with pytest.raises(MismatchError, match="raw rows are off by"):
        check_export(job, broken)


def test_another_network_of_the_same_shape_fails(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("onnx")
    with pytest.raises(MismatchError):
        check_export(tiny_job(tmp_path), file)


def test_suppression_of_other_settings_fails(exported: Exported) -> None:
    job, file = exported("torchscript", nms=True, max_det=300)
    assert check_export(job, file).figures.compared > 20
    for wrong in ({"iou_thres": 0.8}, {"conf_thres": 0.1}):
        with pytest.raises(MismatchError):
            check_export(job.changed(**wrong), file)


def test_suppression_that_leaves_nothing_is_no_comparison(exported: Exported) -> None:
    job, file = exported("torchscript", nms=True, conf_thres=0.99)
    assert check_export(job, file).text.startswith("not compared with PyTorch: on the images nothing scores above")
    with pytest.raises(MismatchError):
        check_export(job.changed(conf_thres=0.25), file)


def test_another_number_of_rows_fails(tmp_path: Path) -> None:
    small = lively_job(tmp_path, imgsz=(32, 96))
    file = export_torchscript(replace(small, network=_Cut(small.network)))
    with pytest.raises(MismatchError, match=r"output of shape \(2, 100, 7\) instead of \(2, 120, 7\)"):
        check_export(small, file)


class _Cut(torch.nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)[:, :100]


def test_a_dynamic_file_is_compared_in_two_sizes(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    loaded = verify.load_batch

    def load(job: ExportJob, size_hw: tuple[int, int]) -> torch.Tensor:
        seen.append(size_hw)
        return loaded(job, size_hw)

    monkeypatch.setattr(verify, "load_batch", load)
    check_export(*exported("torchscript", dynamic=True))
    assert seen == [(64, 96), (64, 48)]


def test_an_absent_runtime_is_said_plainly(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise MissingPackageError("ONNX files need the package onnxruntime: pip install onnxruntime")

    monkeypatch.setattr(verify, "load_backend", absent)
    report = check_export(*exported("onnx"))
    assert report.figures is None
    assert report.text == (
        "not compared with PyTorch: ONNX files need the package onnxruntime: pip install onnxruntime"
    )


def test_int8_is_judged_by_map_where_there_is_data(exported: Exported, tmp_path: Path) -> None:
    job, file = exported("onnx")
    broken = spoil(file, tmp_path / "broken.onnx", layer=-1, factor=1.3)
    job = job.changed(int8=True)
    assert "its accuracy was not measured, which needs --data" in check_export(job, broken).text
    values = iter([0.5, 0.485, 0.5, 0.47])
    measured = []

    def measure(network: Callable[[torch.Tensor], Any], fixed_hw: tuple[int, int] | None) -> dict[str, float]:
        measured.append((network(torch.rand(1, 3, 64, 96)), fixed_hw))
        return {"mAP50-95": next(values)}

    assert check_export(job, broken, measure=measure).text.endswith("; mAP50-95 0.485, PyTorch 0.500")
    with pytest.raises(
        MismatchError, match=r"INT8 loses 3\.0 points of mAP50-95 .*, more than 2; calibrate on more images"
    ):
        check_export(job, broken, measure=measure)
    assert [fixed_hw for _, fixed_hw in measured] == [(64, 96)] * 4


def test_tolerances_follow_the_precision(tmp_path: Path) -> None:
    job = lively_job(tmp_path)
    assert (tolerance_of(job).pixels, tolerance_of(job).score) == (1.0, 0.01)
    half = tolerance_of(job.changed(half=True))
    assert (half.pixels, half.score) == (pytest.approx(0.96), 0.02)  # 1 % of 96 pixels
