"""PaddlePaddle exports, run if PaddlePaddle is installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny_jobs import NAMES, TINY_GRAPH, build_tiny_job

from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export.base import ExportNetwork
from utils.export.paddle import export_paddle
from utils.export.verify import check_export

CPU = torch.device("cpu")
pytestmark = pytest.mark.slow


def graph(*rows: list, head: str = "Detect", arguments: tuple = ("nc", "anchors")) -> dict:
    """The tiny graph with other layers between its stem and its head."""
    first = TINY_GRAPH["backbone"][:3]
    last = [[[2, len(first) + len(rows) - 1], 1, head, list(arguments)]]
    return {**TINY_GRAPH, "backbone": [*first, *rows], "head": last}


def test_folder_holds_metadata_and_agrees_with_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("paddle")
    job = build_tiny_job(tmp_path, batch=2)
    folder = export_paddle(job)
    assert folder == tmp_path / "tiny mödel_paddle_model"
    assert {p.name for p in folder.iterdir()} == {"model.json", "model.pdiparams", "tiny mödel.yaml"}
    values = yaml.safe_load((folder / "tiny mödel.yaml").read_text(encoding="utf-8"))
    assert (values["stride"], values["names"], values["imgsz"]) == (16, NAMES, [64, 96])
    backend = load_backend(folder, device=CPU)
    assert (backend.names, backend.stride, backend.fixed_hw) == (NAMES, 16, (64, 96))
    images = torch.rand(5, 3, 64, 96)  # two and a half batches
    torch.testing.assert_close(backend.forward(images), job.network(images), rtol=1e-4, atol=1e-3)
    check_export(job, folder)  # raises MismatchError if they differ


def test_dynamic_sizes(tmp_path: Path) -> None:
    pytest.importorskip("paddle")
    job = build_tiny_job(tmp_path, dynamic=True)
    backend = load_backend(export_paddle(job), device=CPU)
    assert backend.fixed_hw is None
    for shape in ((1, 3, 64, 96), (3, 3, 32, 160), (2, 3, 96, 48)):
        images = torch.rand(shape)
        torch.testing.assert_close(backend.forward(images), job.network(images), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("layers", "dynamic"),
    [
        pytest.param(graph([-1, 1, "C3TR", [16]]), True, id="attention, dynamic"),
        pytest.param(graph([-1, 1, "C3TR", [16]]), False, id="attention"),
        pytest.param(graph([-1, 1, "C3Ghost", [16]], [-1, 1, "SPP", [16, [3, 5]]]), False, id="ghost, SPP"),
        pytest.param(
            graph([-1, 1, "BottleneckCSP", [16]], [-1, 1, "nn.MaxPool2d", [2, 2, 0]]), False, id="batch norm, pool"
        ),
        pytest.param(
            graph([-1, 1, "nn.ZeroPad2d", [[0, 1, 0, 1]]], [-1, 1, "nn.MaxPool2d", [2, 1, 0]]), False, id="padding"
        ),
        pytest.param({**graph([-1, 1, "C3", [16]]), "activation": "nn.Hardswish()"}, False, id="hard swish"),
        pytest.param(
            {**graph([-1, 1, "Focus", [16]]), "activation": "nn.LeakyReLU(0.1)"}, False, id="slices, leaky ReLU"
        ),
    ],
)
def test_every_layer_has_a_translation(layers: dict, dynamic: bool, tmp_path: Path) -> None:
    pytest.importorskip("paddle")
    torch.manual_seed(0)
    model = DetectionModel(layers).eval().requires_grad_(False).fuse()
    job = build_tiny_job(tmp_path, dynamic=dynamic)
    job = replace(job, network=ExportNetwork(model, dynamic=dynamic))
    backend = load_backend(export_paddle(job), device=CPU)
    images = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(backend.forward(images), job.network(images), rtol=1e-4, atol=1e-3)


def test_prototypes_and_classes(tmp_path: Path) -> None:
    pytest.importorskip("paddle")
    torch.manual_seed(0)
    cfg = graph([-1, 1, "C3", [16]], head="Segment", arguments=("nc", "anchors", 4, 8))
    segment = SegmentationModel(cfg).eval().requires_grad_(False).fuse()
    classify = ClassificationModel(model=DetectionModel(TINY_GRAPH), nc=5, cutoff=5).eval().requires_grad_(False)
    images = torch.rand(1, 3, 64, 96)
    for task, model in (("segment", segment), ("classify", classify)):
        job = build_tiny_job(tmp_path, weights=f"{task}.pt")
        job = replace(job, network=ExportNetwork(model), info=replace(job.info, task=task))
        outputs = load_backend(export_paddle(job), device=CPU).forward(images)
        torch.testing.assert_close(outputs, job.network(images), rtol=1e-4, atol=1e-3)


def test_unsupported_operators(tmp_path: Path) -> None:
    pytest.importorskip("paddle")
    job = build_tiny_job(tmp_path)
    job = replace(job, network=torch.nn.Sequential(torch.nn.ELU()))
    with pytest.raises(InputError, match=r"PaddlePaddle export does not support aten\.elu\.default; export to ONNX"):
        export_paddle(job)
    assert not list(tmp_path.iterdir())


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddle", None)
    with pytest.raises(InputError, match=r"PaddlePaddle exports.* paddle"):
        export_paddle(build_tiny_job(tmp_path))
