"""Export runs: settings, several formats, failures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_jobs import NAMES, TINY_GRAPH

import export
from models.checkpoint import save_checkpoint
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export import run
from utils.export.base import ExportJob, ExportOptions
from utils.export.run import build_job, compute_size_mb, drop_unsupported_options
from utils.export.table import find_export_formats
from utils.export.verify import MismatchError

LOGGER = logging.getLogger("openyolov5")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = DetectionModel(TINY_GRAPH)
    values = {"task": "detect", "yaml": model.yaml, "names": NAMES, "model": model.state_dict()}
    save_checkpoint(tmp_path / "a b.pt", values)
    return tmp_path / "a b.pt"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    LOGGER.propagate = True
    caplog.set_level(logging.INFO, "openyolov5")
    return caplog


def test_several_formats_and_checkpoints(weights: Path, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    other = tmp_path / "c.pt"
    other.write_bytes(weights.read_bytes())
    files = export.run(weights=[weights, other], include=["torchscript", "pickle"], imgsz=[64, 96])
    endings = (".torchscript", "_pickle.pt")
    assert files == [str(tmp_path / f"{stem}{ending}") for stem in ("a b", "c") for ending in endings]
    assert "TorchScript: compared with PyTorch: relative error 0" in log.text
    assert f"python detect.py --weights {files[-1]} --imgsz 64 96 | python val.py" in log.text


def test_image_size_is_a_multiple_of_the_stride(weights: Path, log: pytest.LogCaptureFixture) -> None:
    (file,) = export.run(weights=weights, include="torchscript", imgsz=70)
    assert load_backend(file, device=torch.device("cpu")).fixed_hw == (96, 96)


def test_failing_format_does_not_stop_the_others(
    weights: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(job: ExportJob) -> Path:
        raise KeyError("a converter's\nerror")

    monkeypatch.setattr("utils.export.onnx.export_onnx", failing)
    assert export.main(["--weights", str(weights), "--include", "onnx", "torchscript", "--imgsz", "64"]) == 1
    lines = [record.getMessage() for record in log.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: ONNX: cannot convert {weights}: KeyError: ")
    assert "\n" not in lines[0]
    assert weights.with_suffix(".torchscript").is_file()


def test_folder_instead_of_a_file(weights: Path, log: pytest.LogCaptureFixture) -> None:
    target = weights.with_suffix(".torchscript")
    target.mkdir()
    assert export.run(weights=weights, include="torchscript", imgsz=64) == []
    remedy = "make it writable, or copy the checkpoint to another folder"
    assert f"error: TorchScript: {target}: Is a directory; {remedy}" in log.text
    assert [p.name for p in weights.parent.iterdir() if p.name.endswith(".tmp")] == []


def test_mismatch_fails_the_export(
    weights: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mismatch(*_: Any, **__: Any) -> None:
        raise MismatchError("x: does not agree with PyTorch: off by 7 px")

    monkeypatch.setattr(run, "check_export", mismatch)
    assert export.run(weights=weights, include="torchscript", imgsz=64) == []
    assert "error: TorchScript: x: does not agree with PyTorch: off by 7 px" in log.text
    assert "1 of 1 exports failed" in log.text


def test_unsupported_options(log: pytest.LogCaptureFixture) -> None:
    (kind,) = find_export_formats(["torchscript"])
    options = ExportOptions(simplify=True, opset=17, half=True, workspace=2)
    assert drop_unsupported_options(kind, options) == ExportOptions(half=True, workspace=2)
    assert log.messages == [
        "WARNING: --simplify is ignored: TorchScript does not support it",
        "WARNING: --opset is ignored: TorchScript does not support it",
    ]
    with pytest.raises(InputError, match="--int8 is not supported for TorchScript; leave it out"):
        drop_unsupported_options(kind, ExportOptions(int8=True))
    with pytest.raises(InputError, match="--nms is not supported for PaddlePaddle"):
        drop_unsupported_options(find_export_formats(["paddle"])[0], ExportOptions(nms=True))


def test_ignored_flags(weights: Path, log: pytest.LogCaptureFixture) -> None:
    export.run(weights=weights, include="pickle", imgsz=64, inplace=True, topk_per_class=5, max_det=7, iou_thres=0.6)
    assert "--inplace is ignored" in log.text
    assert "--topk-per-class is ignored" in log.text
    assert "--iou-thres, --max-det: ignored without --nms" in log.text


@pytest.mark.parametrize("name", ["max_det", "topk_all"])
def test_nms_settings_reach_the_graph(name: str, weights: Path) -> None:
    (file,) = export.run(weights=weights, include="torchscript", imgsz=64, nms=True, conf_thres=1e-6, **{name: 9})
    rows = load_backend(file, device=torch.device("cpu")).forward(torch.rand(2, 3, 64, 64)).rows
    assert rows.shape == (2, 9, 6)
    assert (rows[..., 4] > 0).all()


def test_job_metadata(weights: Path) -> None:
    model = DetectionModel({**TINY_GRAPH, "ch": 4})
    job = build_job(weights, model, ExportOptions(imgsz=(64, 96), batch=2, dynamic=True))
    assert (job.info.channels, job.info.stride, job.info.task, job.info.imgsz) == (4, 32, "detect", (64, 96))
    assert tuple(job.example.shape) == (2, 4, 64, 96)
    assert job.get_path(".onnx").name == "a b.onnx"
    assert build_job(weights, ClassificationModel(TINY_GRAPH, cutoff=5), ExportOptions()).info.task == "classify"


def test_nms_needs_a_detector(weights: Path) -> None:
    graph = {**TINY_GRAPH, "head": [*TINY_GRAPH["head"][:-1], [[8, 5], 1, "Segment", ["nc", "anchors", 4, 8]]]}
    with pytest.raises(InputError, match="--nms is not supported for task 'segment'"):
        build_job(weights, SegmentationModel(graph), ExportOptions(nms=True))


def test_normalized_boxes(weights: Path) -> None:
    model = DetectionModel(TINY_GRAPH).eval()
    images = torch.rand(1, 3, 64, 96)
    plain = build_job(weights, model, ExportOptions()).network(images)
    job = build_job(weights, model, ExportOptions(), normalized=True)
    assert job.info.normalized
    torch.testing.assert_close(job.network(images)[..., :4] * torch.tensor([96.0, 64, 96, 64]), plain[..., :4])
    classifier = build_job(weights, ClassificationModel(TINY_GRAPH, nc=9, cutoff=5), ExportOptions(), normalized=True)
    assert not classifier.info.normalized, "it has no boxes"


def test_sizes_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(2_000_000))
    (tmp_path / "y").write_bytes(bytes(500_000))
    assert (compute_size_mb(tmp_path / "x"), compute_size_mb(tmp_path)) == (2.0, 2.5)


@pytest.mark.slow
@pytest.mark.parametrize("include", ["torchscript", "onnx", "openvino"])
def test_four_levels(include: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DetectionModel("hub/yolov5n6.yaml", nc=3)
    values = {"task": "detect", "yaml": model.yaml, "names": model.names, "model": model.state_dict()}
    save_checkpoint(tmp_path / "p6.pt", values)
    (file,) = export.run(weights=tmp_path / "p6.pt", include=include, imgsz=[128, 192], dynamic=True)
    backend = load_backend(file, device=torch.device("cpu"))
    assert (backend.stride, backend.forward(torch.rand(2, 3, 64, 128)).shape[0]) == (64, 2)
