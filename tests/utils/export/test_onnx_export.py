"""ONNX files as they are written: names, axes, metadata, opsets, precision, NMS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from lively_jobs import lively_job
from tiny_jobs import NAMES

from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export import onnx as onnx_export
from utils.export.base import ExportJob
from utils.export.onnx import OPSET, export_onnx, opset_of
from utils.export.verify import check_export
from utils.ops.nms import non_max_suppression

CPU = torch.device("cpu")
Exported = Callable[..., tuple[ExportJob, Path]]


def axes(value: Any) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_a_fixed_graph_describes_itself(exported: Exported) -> None:
    job, file = exported("onnx")
    assert file.name == "tiny mödel.onnx"
    assert sorted(p.name for p in file.parent.iterdir()) == [file.name]
    model = onnx.load(file)
    assert [(v.name, axes(v)) for v in (*model.graph.input, *model.graph.output)] == [
        ("images", [1, 3, 64, 96]),
        ("output0", [1, 240, 7]),
    ]
    stored = {entry.key: entry.value for entry in model.metadata_props}
    assert stored == job.info.to_strings()
    assert (stored["stride"], stored["names"]) == ("16", str(NAMES))
    assert opset_of(model) == OPSET
    assert "site-packages" not in str(model), "notes of the exporter name folders of this machine"


def test_a_dynamic_graph_names_its_axes_and_takes_any_size(exported: Exported) -> None:
    job, file = exported("onnx", dynamic=True)
    model = onnx.load(file)
    assert axes(model.graph.input[0]) == ["batch", 3, "height", "width"]
    assert axes(model.graph.output[0]) == ["batch", "output0_1", 7]
    backend = load_backend(file, device=CPU)
    assert (backend.fixed_hw, backend.names) == (None, NAMES)
    for shape in ((1, 3, 64, 96), (3, 3, 32, 160), (2, 3, 16, 16)):
        images = torch.rand(shape)
        torch.testing.assert_close(backend.forward(images), job.network(images), atol=1e-3, rtol=1e-4)


def test_a_fixed_batch_takes_any_number(exported: Exported) -> None:
    job, file = exported("onnx", batch=2)
    backend = load_backend(file, device=CPU)
    for count in (1, 2, 3):
        images = torch.rand(count, 3, 64, 96)
        torch.testing.assert_close(backend.forward(images), job.network(images), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"dynamic": True}, {"agnostic": True, "max_det": 5}], ids=str)
def test_nms_inside_is_that_of_utils_nms(options: dict[str, Any], exported: Exported) -> None:
    job, file = exported("onnx", nms=True, **options)
    images = torch.rand(3, 3, 64, 96)
    backend = load_backend(file, device=CPU)
    found = non_max_suppression(backend.forward(images), 0.25, max_det=1000)
    settings = job.options
    raw = job.network.model(images)
    expected = non_max_suppression(raw, 0.25, 0.45, agnostic=settings.agnostic, max_det=settings.max_det)
    assert min(map(len, expected)) >= min(settings.max_det, 10)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    assert backend.forward(images).rows.shape == (3, settings.max_det, 6)


def test_half_takes_half_and_gives_single(exported: Exported) -> None:
    job, file = exported("onnx", half=True)
    full = exported("onnx")[1]
    model = onnx.load(file)
    kinds = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    assert kinds == [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT]
    assert file.stat().st_size < 0.75 * full.stat().st_size
    assert check_export(job, file).figures.compared > 10


@pytest.mark.parametrize("opset", [11, 12, 15, 17, 20])
def test_other_opsets(opset: int, exported: Exported) -> None:
    job, file = exported("onnx", opset=opset)
    model = onnx.load(file)
    assert opset_of(model) == opset
    assert model.ir_version == {11: 6, 12: 7, 15: 8, 17: 8, 20: 9}[opset], "what runtimes of that age read"
    assert check_export(job, file).figures.compared > 10


@pytest.mark.parametrize(
    ("opset", "message"),
    [
        (7, r"--opset 7: torch exports to 18 and up, and onnx cannot convert the graph down \(.*\); give --opset 18"),
        (999, r"--opset 999: is not written by the exporter of this torch; give a lower"),
    ],
)
def test_opsets_that_cannot_be_had(opset: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export_onnx(lively_job(tmp_path, opset=opset))
    assert not list(tmp_path.iterdir())


def test_simplify(tmp_path: Path) -> None:
    pytest.importorskip("onnxslim")
    job = lively_job(tmp_path, simplify=True)
    assert check_export(job, export_onnx(job)).figures.compared > 10


def test_more_than_a_file_can_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_export, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="an ONNX file ends at 2 GB, this network needs"):
        export_onnx(lively_job(tmp_path))
    assert not list(tmp_path.iterdir())
