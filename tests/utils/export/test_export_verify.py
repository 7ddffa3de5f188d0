"""Comparison after an export: correct files pass, wrong ones fail with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from confident_jobs import build_confident_job
from onnx import numpy_helper
from tiny_jobs import build_tiny_job

from utils.core.logging import LOGGER
from utils.core.packages import MissingPackageError
from utils.export import verify
from utils.export.base import ExportJob
from utils.export.onnx import export_onnx
from utils.export.torchscript import export_torchscript
from utils.export.verify import MismatchError, check_export, compute_relative_error, get_tolerance
from utils.metrics.agreement import Agreement

Exported = Callable[..., tuple[ExportJob, Path]]


def scale_weights(file: Path, target: Path, *, layer: int, factor: float) -> Path:
    """Copy an ONNX file with the weights of one convolution multiplied."""
    model = onnx.load(file)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    weight = weights[convolutions[layer].input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * factor, weight.name))
    onnx.save(model, target)
    return target


class _Changed(torch.nn.Module):
    """A network with with_options images or outputs."""

    def __init__(self, network: Any, change: Callable[..., Any], *, before: bool = False) -> None:
        super().__init__()
        self.network, self.change, self.before = network, change, before

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(self.change(images)) if self.before else self.change(self.network(images))


def test_a_correct_export_passes(exported: Exported) -> None:
    report = check_export(*exported("onnx"))
    assert report.relative is not None and report.relative < 1e-5
    assert report.agreement is None, "raw outputs decide"
    assert report.text == f"compared with PyTorch: relative error {report.relative:.2g}"


@pytest.mark.parametrize(("layer", "factor"), [(0, 1.1), (3, 0.9), (-1, 1.05), (-1, -1.0), (0, float("nan"))])
def test_wrong_weights_fail(layer: int, factor: float, exported: Exported, tmp_path: Path) -> None:
    job, file = exported("onnx")
    broken = scale_weights(file, tmp_path / "broken.onnx", layer=layer, factor=factor)
    message = r"broken\.onnx: does not agree with PyTorch: relative error \S+, allowed is 0\.0001; the file is kept"
    with pytest.raises(MismatchError, match=message):
        check_export(job, broken)


def scale_boxes(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat((rows[..., :4] * 1.01, rows[..., 4:]), dim=-1)


def swap_classes(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat((rows[..., :5], rows[..., 5:].flip(-1)), dim=-1)


def swap_rows(rows: torch.Tensor) -> torch.Tensor:
    return rows.flip(1)


def swap_width_and_height(rows: torch.Tensor) -> torch.Tensor:
    return rows[..., [0, 1, 3, 2, *range(4, rows.shape[-1])]]


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    return images * 255


def swap_channels(images: torch.Tensor) -> torch.Tensor:
    return images.flip(1)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("change", "before"),
    [
        (scale_boxes, False),
        (swap_classes, False),
        (swap_rows, False),
        (swap_width_and_height, False),
        (to_bytes, True),
        (swap_channels, True),
    ],
)
def test_a_wrong_graph_fails(change: Callable[..., Any], before: bool, half: bool, tmp_path: Path) -> None:
    job = build_confident_job(tmp_path)
    file = export_torchscript(replace(job, network=_Changed(job.network, change, before=before)))
    if half and change is scale_boxes:
        pytest.skip("1 % of a box is within the tolerance of FP16")
    with pytest.raises(MismatchError, match="relative error"):
        check_export(job.with_options(half=half), file)


def test_half_precision_needs_agreeing_detections(exported: Exported, tmp_path: Path) -> None:
    job, file = exported("onnx", half=True)
    report = check_export(job, file)
    assert report.agreement is not None and report.agreement.agreeing > 20
    assert f"{report.agreement.agreeing} of {report.agreement.total} predictions agree" in report.text
    strict = replace(get_tolerance(job), relative=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "get_tolerance", lambda _: strict)
        with pytest.raises(MismatchError, match=r"\d+ of \d+ predictions agree, at least 90% must"):
            check_export(job, scale_weights(file, tmp_path / "broken.onnx", layer=-1, factor=1.05))


@pytest.mark.parametrize("factor", [1.2, 0.8])
@pytest.mark.parametrize("half", [False, True])
def test_a_network_that_detects_nothing_is_compared_too(half: bool, factor: float, tmp_path: Path) -> None:
    job = build_confident_job(tmp_path, half=half)
    for conv in job.network.model.head.m:
        conv.bias -= 6.0
    file = export_onnx(job)
    assert check_export(job, file).agreement == (Agreement() if half else None)
    broken = scale_weights(file, tmp_path / "broken.onnx", layer=0, factor=factor)
    with pytest.raises(MismatchError, match="relative error"):
        check_export(job, broken)


def test_another_network_of_the_same_shape_fails(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("onnx")
    with pytest.raises(MismatchError):
        check_export(build_tiny_job(tmp_path), file)


def test_nms_with_other_settings_fails(exported: Exported) -> None:
    job, file = exported("torchscript", nms=True, max_det=300)
    report = check_export(job, file)
    assert report.relative is None
    assert report.agreement is not None and report.agreement.agreeing == report.agreement.total > 20
    for wrong in ({"iou_thres": 0.8}, {"conf_thres": 0.1}):
        with pytest.raises(MismatchError):
            check_export(job.with_options(**wrong), file)


def test_nms_without_detections_is_not_compared(exported: Exported) -> None:
    job, file = exported("torchscript", nms=True, conf_thres=0.99)
    assert check_export(job, file).text.startswith("not compared with PyTorch: nothing in the images scores above")
    with pytest.raises(MismatchError):
        check_export(job.with_options(conf_thres=0.25), file)


def test_another_number_of_rows_fails(tmp_path: Path) -> None:
    small = build_confident_job(tmp_path, imgsz=(32, 96))
    file = export_torchscript(replace(small, network=_Changed(small.network, lambda rows: rows[:, :100])))
    with pytest.raises(MismatchError, match=r"output shapes \[\(\d, 100, 7\)\] instead of \[\(\d, 120, 7\)\]"):
        check_export(small, file)


def test_dynamic_file_is_compared_at_two_sizes(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    load_images = verify.load_comparison_images

    def load(job: ExportJob, size_hw: tuple[int, int]) -> torch.Tensor:
        sizes.append(size_hw)
        return load_images(job, size_hw)

    monkeypatch.setattr(verify, "load_comparison_images", load)
    check_export(*exported("torchscript", dynamic=True))
    assert sizes == [(64, 96), (64, 48)]


def test_missing_runtime_is_reported(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_missing(*_: Any, **__: Any) -> None:
        raise MissingPackageError("ONNX files need the package onnxruntime: pip install onnxruntime")

    monkeypatch.setattr(verify, "load_backend", raise_missing)
    report = check_export(*exported("onnx"))
    assert report.agreement is None
    assert report.text == (
        "not compared with PyTorch: ONNX files need the package onnxruntime: pip install onnxruntime"
    )


def test_file_that_others_need_trust_for(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is compared all the same, with a warning."""
    job, file = exported("torchscript")
    monkeypatch.setattr("utils.backends.script_code.TORCH_OPERATORS", frozenset())
    monkeypatch.setattr(LOGGER, "propagate", True)
    assert check_export(job, file).relative < 1e-4
    assert re.search(r"WARNING: .*torchscript: code/\S+\.py:\d+: a call of torch\.\w+, .*; use --trust", caplog.text)


def test_accuracy_decides_on_int8(exported: Exported, tmp_path: Path) -> None:
    job, file = exported("onnx")
    broken = scale_weights(file, tmp_path / "broken.onnx", layer=-1, factor=1.3)
    job = job.with_options(int8=True)
    assert "accuracy not measured, which needs --data" in check_export(job, broken).text
    values = iter([0.5, 0.485, 0.5, 0.47])
    calls = []

    def measure(network: Callable[[torch.Tensor], Any], fixed_hw: tuple[int, int] | None) -> dict[str, float]:
        calls.append((network(torch.rand(1, 3, 64, 96)), fixed_hw))
        return {"mAP50-95": next(values)}

    assert check_export(job, broken, measure=measure).text.endswith("; mAP50-95 0.485, PyTorch 0.500")
    with pytest.raises(
        MismatchError, match=r"INT8 loses 3\.0 points of mAP50-95 .*, more than 2; calibrate on more images"
    ):
        check_export(job, broken, measure=measure)
    assert [fixed_hw for _, fixed_hw in calls] == [(64, 96)] * 4


def test_accuracy_decides_on_fp16(exported: Exported, tmp_path: Path) -> None:
    job, file = exported("onnx", half=True)
    broken = scale_weights(file, tmp_path / "broken.onnx", layer=-1, factor=1.3)
    values = iter([0.5, 0.49, 0.5, 0.3])
    assert check_export(job, broken, measure=lambda *_: {"mAP50-95": next(values)}).text.endswith("PyTorch 0.500")
    with pytest.raises(MismatchError, match=r"FP16 loses 20\.0 points of mAP50-95 .*, more than 2; leave --half out"):
        check_export(job, broken, measure=lambda *_: {"mAP50-95": next(values)})


def test_accuracy_of_a_graph_with_nms_is_compared_with_nms(exported: Exported) -> None:
    job, file = exported("torchscript", nms=True)
    rows = []

    def measure(network: Callable[[torch.Tensor], Any], _: tuple[int, int] | None) -> dict[str, float]:
        rows.append(network(torch.full((1, 3, 64, 96), 0.5)).rows)
        return {"mAP50-95": 0.5}

    check_export(job.with_options(int8=True), file, measure=measure)
    torch.testing.assert_close(rows[0], rows[1], atol=1e-3, rtol=1e-4)


def test_tolerance_depends_on_the_precision(tmp_path: Path) -> None:
    job = build_confident_job(tmp_path)
    assert (get_tolerance(job).pixels, get_tolerance(job).score, get_tolerance(job).relative) == (1.0, 0.01, 1e-4)
    half = get_tolerance(job.with_options(half=True))
    assert (half.pixels, half.score) == (pytest.approx(0.96), 0.02)  # 1 % of 96 pixels


def test_relative_error_of_boxes_and_scores() -> None:
    rows = torch.tensor([[[100.0, 100, 100, 100, 0.1, 0.3]]])
    output, path = rows.clone(), Path("x")
    output[..., 5] += 0.1
    assert compute_relative_error(path, [rows], [output]) == pytest.approx(0.25)
    output[..., 0] += 200
    assert compute_relative_error(path, [rows], [output, rows]) == pytest.approx(0.5), "further outputs are ignored"
    maps = torch.ones(1, 2, 2, 2)
    assert compute_relative_error(path, [rows, maps], [rows, maps * 3]) == pytest.approx(2.0)
    broken = rows.clone()
    broken[..., 5] = torch.nan
    assert not compute_relative_error(path, [rows, maps], [broken, maps]) <= 1.0
    with pytest.raises(
        MismatchError, match=r"x: does not agree .* \[\(1, 1, 6\)\] instead of \[\(1, 1, 6\), \(1, 2, 2, 2\)\]"
    ):
        compute_relative_error(path, [rows, maps], [rows])
