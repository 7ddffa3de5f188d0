"""ONNX exports: names, axes, metadata, opsets, precision, NMS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from confident_jobs import build_confident_job
from tiny_jobs import NAMES

from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export import onnx as onnx_export
from utils.export.base import ExportJob
from utils.export.onnx import DEFAULT_OPSET, export_onnx, get_opset
from utils.export.verify import check_export
from utils.ops.nms import non_max_suppression

CPU = torch.device("cpu")
Exported = Callable[..., tuple[ExportJob, Path]]


def list_axes(value: Any) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_static_graph_holds_metadata(exported: Exported) -> None:
    job, file = exported("onnx")
    assert file.name == "tiny mödel.onnx"
    assert sorted(p.name for p in file.parent.iterdir()) == [file.name]
    model = onnx.load(file)
    assert [(v.name, list_axes(v)) for v in (*model.graph.input, *model.graph.output)] == [
        ("images", [1, 3, 64, 96]),
        ("output0", [1, 240, 7]),
    ]
    stored = {entry.key: entry.value for entry in model.metadata_props}
    assert stored == job.info.to_strings()
    assert (stored["stride"], stored["names"]) == ("16", str(NAMES))
    assert get_opset(model) == DEFAULT_OPSET
    assert "site-packages" not in str(model), "notes of the exporter contain local paths"


def test_dynamic_graph_names_its_axes_and_takes_any_size(exported: Exported) -> None:
    job, file = exported("onnx", dynamic=True)
    model = onnx.load(file)
    assert list_axes(model.graph.input[0]) == ["batch", 3, "height", "width"]
    assert list_axes(model.graph.output[0]) == ["batch", "output0_1", 7]
    backend = load_backend(file, device=CPU)
    assert (backend.fixed_hw, backend.names) == (None, NAMES)
    for shape in ((1, 3, 64, 96), (3, 3, 32, 160), (2, 3, 16, 16)):
        images = torch.rand(shape)
        torch.testing.assert_close(backend.forward(images), job.network(images), atol=1e-3, rtol=1e-4)


def test_static_batch_takes_any_number_of_images(exported: Exported) -> None:
    job, file = exported("onnx", batch=2)
    backend = load_backend(file, device=CPU)
    for count in (1, 2, 3):
        images = torch.rand(count, 3, 64, 96)
        torch.testing.assert_close(backend.forward(images), job.network(images), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"dynamic": True}, {"agnostic": True, "max_det": 5}], ids=str)
def test_nms_in_the_graph_equals_utils_nms(options: dict[str, Any], exported: Exported) -> None:
    job, file = exported("onnx", nms=True, **options)
    images = torch.rand(3, 3, 64, 96)
    backend = load_backend(file, device=CPU)
    detections = non_max_suppression(backend.forward(images), 0.25, max_det=1000)
    settings = job.options
    raw = job.network.model(images)
    expected = non_max_suppression(raw, 0.25, 0.45, agnostic=settings.agnostic, max_det=settings.max_det)
    assert min(map(len, expected)) >= min(settings.max_det, 10)
    torch.testing.assert_close(detections, expected, atol=1e-3, rtol=1e-4)
    assert backend.forward(images).rows.shape == (3, settings.max_det, 6)


def test_half_has_fp16_input_and_fp32_output(exported: Exported) -> None:
    job, file = exported("onnx", half=True)
    full = exported("onnx")[1]
    model = onnx.load(file)
    kinds = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    assert kinds == [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT]
    assert file.stat().st_size < 0.75 * full.stat().st_size
    assert check_export(job, file).agreement.agreeing > 10


@pytest.mark.parametrize("opset", [11, 12, 15, 17, 20])
def test_other_opsets(opset: int, exported: Exported) -> None:
    job, file = exported("onnx", opset=opset)
    model = onnx.load(file)
    assert get_opset(model) == opset
    assert model.ir_version == {11: 6, 12: 7, 15: 8, 17: 8, 20: 9}[opset], "supported by runtimes of that time"
    assert check_export(job, file).relative < 1e-4


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_opset_12_for_any_size(task: str, tmp_path: Path) -> None:
    """The opset that the original exports by default, which many runtimes on devices are limited to."""
    job = build_confident_job(tmp_path, task=task, dynamic=True, opset=12)
    file = export_onnx(job)
    assert get_opset(onnx.load(file)) == 12
    backend = load_backend(file, device=CPU)
    for shape in ((1, 3, 64, 96), (3, 3, 32, 160), (2, 3, 48, 48)):
        images = torch.rand(shape)
        torch.testing.assert_close(backend.forward(images), job.network(images), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("opset", "message"),
    [
        (7, r"--opset 7: torch exports opset 18 and later, and onnx cannot convert .* down \(.*\); give --opset 18"),
        (999, r"--opset 999: the exporter of this torch does not support it; give a lower"),
    ],
)
def test_unsupported_opsets(opset: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export_onnx(build_confident_job(tmp_path, opset=opset))
    assert not list(tmp_path.iterdir())


def test_simplify(tmp_path: Path) -> None:
    pytest.importorskip("onnxslim")
    job = build_confident_job(tmp_path, simplify=True)
    assert check_export(job, export_onnx(job)).relative < 1e-4


def test_files_over_2_gb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_export, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="ONNX files are limited to 2 GB, this network needs"):
        export_onnx(build_confident_job(tmp_path))
    assert not list(tmp_path.iterdir())
