"""export.py from the command line, and the other commands on exported files."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_jobs import NAMES, TINY_GRAPH

import detect
import export
import val
from models.checkpoint import save_checkpoint
from models.yolo import DetectionModel
from utils.config.base import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained network of two classes."""
    torch.manual_seed(0)
    model = DetectionModel(TINY_GRAPH)
    file = tmp_path_factory.mktemp("söme weights") / "my net.pt"
    save_checkpoint(file, {"task": "detect", "yaml": model.yaml, "names": NAMES, "model": model.state_dict()})
    return file


def test_export_then_detect(weights: Path, tmp_path: Path, run_script: Run) -> None:
    flags = ("--imgsz", "64", "96", "--dynamic", "--nms", "--conf-thres", "0.000001", "--max-det", "4")
    result = run_script("export.py", "--weights", weights, "--include", "onnx", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    file = weights.with_suffix(".onnx")
    assert file.is_file()
    lines = result.stderr.strip().splitlines()
    assert "ONNX: compared with PyTorch: " in lines[-2] and "predictions agree" in lines[-2]
    assert lines[-1].startswith(f'Use it: python detect.py --weights "{file}" --imgsz 64 96')
    assert not list(tmp_path.iterdir())
    flags = ("--img", "96", "--conf-thres", "0", "--nosave", "--device", "cpu")
    detection = run_script("detect.py", "--weights", file, *flags)
    assert detection.returncode == 0, detection.stderr
    assert "square" in detection.stderr or "dïsc's" in detection.stderr
    assert "Traceback" not in detection.stderr


def test_imgsz_of_a_fixed_size_file_is_ignored_with_a_warning(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("openyolov5").propagate = True
    (file,) = export.run(weights=weights, include="torchscript", imgsz=[64, 96])
    settings = {"source": str(ROOT / "data/images/shapes_1.jpg"), "nosave": True, "device": "cpu"}
    for size in ({}, {"imgsz": [64, 96]}):
        detect.run(weights=file, **settings, **size)
    assert "is ignored" not in caplog.text
    detect.run(weights=file, imgsz=128, **settings)
    assert "WARNING: --imgsz 128 is ignored: the file takes 64x96 only" in caplog.text


def test_nms_settings_of_a_file_with_nms_are_ignored_with_a_warning(
    weights: Path, tmp_path: Path, tiny_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("openyolov5").propagate = True
    (file,) = export.run(weights=weights, include="torchscript", imgsz=64, nms=True, conf_thres=0.5)
    settings = {"source": str(ROOT / "data/images/shapes_1.jpg"), "nosave": True, "device": "cpu"}
    detect.run(weights=file, **settings)
    assert "holds NMS" not in caplog.text
    detect.run(weights=file, iou_thres=0.3, agnostic_nms=True, **settings)
    assert "WARNING: --agnostic-nms, --iou-thres: the file holds NMS with the settings of its export" in caplog.text
    val.run(weights=file, data=str(tiny_data), imgsz=64, device="cpu", noplots=True, workers=0)
    assert "holds NMS: evaluated with the thresholds of its export" in caplog.text


def test_failed_exports_give_one_line_each_and_status_1(weights: Path, run_script: Run) -> None:
    result = run_script("export.py", "--weights", weights, "--include", "torchscript", "onnx", "--img", "64", "--int8")
    assert result.returncode == 1
    assert "error: TorchScript: --int8 is not supported for TorchScript; leave it out" in result.stderr
    assert "error: ONNX: --int8 needs images for calibration; give the data set" in result.stderr
    assert "WARNING: 2 of 2 exports failed, see above" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--include", "onxx"), "error: --include onxx: no such format; did you mean onnx? known: torchscript, onnx"),
        (("--weights", "gone.pt"), "error: gone.pt: no such checkpoint"),
        (("--half", "--int8"), "error: --half and --int8 cannot be combined; use one of them"),
    ],
)
def test_bad_input_ends_with_status_2(flags: tuple[str, ...], message: str, run_script: Run) -> None:
    result = run_script("export.py", *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_help_is_fast(run_script: Run) -> None:
    run_script("export.py", "--help")
    started = time.perf_counter()
    assert "--include" in run_script("export.py", "--help").stdout
    assert time.perf_counter() - started < 2  # for busy machines; 0.07 s on an idle one


@pytest.mark.slow
@pytest.mark.parametrize("include", ["torchscript", "onnx", "openvino"])
@pytest.mark.parametrize("options", [{}, {"dynamic": True}, {"half": True}, {"nms": True}], ids=str)
def test_official_checkpoint(include: str, options: dict[str, bool], shared: Path, tmp_path: Path) -> None:
    copy = tmp_path / "yolov5n.pt"
    copy.write_bytes((shared / "weights/yolov5n.pt").read_bytes())
    (file,) = export.run(weights=copy, include=include, imgsz=(320, 256), **options)
    assert Path(file).exists()
