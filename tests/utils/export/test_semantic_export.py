"""Exports of networks with semantic masks: outputs, dynamic sizes, metadata, comparison."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from semantic_nets import CLASSES, build_network, paint_image
from torch import Tensor

from utils.backends.info import ModelInfo
from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export.accuracy import build_accuracy_meter
from utils.export.base import ExportJob, ExportOptions
from utils.export.onnx import export_onnx
from utils.export.pickle import export_pickle
from utils.export.run import build_job
from utils.export.table import find_export_formats
from utils.export.verify import FP32, MismatchError, check_export, compute_relative_error
from utils.metrics.agreement import Agreement, Comparison
from utils.tasks.registry import find_task

CPU = torch.device("cpu")
CASES = [  # OpenVINO models are converted from ONNX
    ("torchscript", "joint", True),
    ("torchscript", "semantic", False),
    ("onnx", "joint", True),
    ("onnx", "joint", False),
    ("onnx", "semantic", False),
    ("openvino", "joint", False),
    pytest.param("openvino", "joint", True, marks=pytest.mark.slow),
    pytest.param("onnx", "semantic", True, marks=pytest.mark.slow),
]


def build_semantic_job(folder: Path, task: str, **options: Any) -> ExportJob:
    settings = ExportOptions(**{"imgsz": (64, 96), **options})
    return build_job(folder / f"tiny {task}.pt", build_network(task).fuse(), settings)


@pytest.mark.parametrize(("include", "task", "dynamic"), CASES)
def test_outputs_agree_with_pytorch(include: str, task: str, dynamic: bool, tmp_path: Path) -> None:
    job = build_semantic_job(tmp_path, task, dynamic=dynamic)
    file = find_export_formats([include])[0].export(job)
    report = check_export(job, file)
    assert report.relative is not None and report.relative < 1e-4
    backend = load_backend(file, device=CPU)
    assert (backend.task, backend.semantic, backend.fixed_hw) == (task, CLASSES, None if dynamic else (64, 96))
    reference: Any = build_network(task)
    for size_hw in [(64, 96), *([(96, 32), (48, 176)] if dynamic else [])]:
        images = torch.rand(2, 3, *size_hw)
        with torch.inference_mode():
            found, wanted = backend.forward(images), reference(images)
        if task == "joint":
            torch.testing.assert_close(found[0], wanted.detection[0], atol=2e-3, rtol=1e-3)
            found, wanted = found[1], wanted.semantic
        assert found.shape == (2, 3, *size_hw)
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)


def test_fp16_onnx_agrees(tmp_path: Path) -> None:
    job = build_semantic_job(tmp_path, "joint", half=True)
    report = check_export(job, find_export_formats(["onnx"])[0].export(job))
    assert report.agreement is not None
    assert report.agreement.agreeing > 10, "boxes, and semantic masks in 99 % of their pixels"


def test_wrong_file_fails(tmp_path: Path) -> None:
    job = build_semantic_job(tmp_path, "semantic")
    file = find_export_formats(["torchscript"])[0].export(job)
    head: Any = job.network.model
    head.semantic_head.classify.weight.data *= -1
    with pytest.raises(MismatchError, match="relative error"):
        check_export(job, file)


@pytest.mark.parametrize("task", ["joint", "semantic"])
def test_int8_and_nms_are_not_supported(task: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"--int8 is not supported for task '{task}'"):
        build_semantic_job(tmp_path, task, int8=True)
    with pytest.raises(InputError, match=rf"--nms is not supported for task '{task}'"):
        build_semantic_job(tmp_path, task, nms=True)


@pytest.mark.parametrize("task", ["joint", "semantic"])
def test_original_releases_have_no_semantic_masks(task: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"tiny {task}.pt: the original releases do not support task '{task}'"):
        export_pickle(build_semantic_job(tmp_path, task))


def logits(*classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor([[classes]]), 4).permute(0, 3, 1, 2).float()


def test_agreement_of_pixels() -> None:
    task, loose = find_task("semantic"), replace(FP32, same_pixels=0.75)
    reference, output = [logits(0, 1, 2, 3)], [logits(0, 1, 2, 2)]
    assert task.compare_outputs(reference, output, Comparison(loose, (1, 4), {})) == Agreement(1, 1)
    assert task.compare_outputs(reference, output, Comparison(FP32, (1, 4), {})) == Agreement(0, 1)
    # two of sixteen values are off by one, their mean is a quarter
    assert compute_relative_error(Path("x"), reference, output) == pytest.approx(0.5)


def test_classes_in_metadata() -> None:
    info = ModelInfo(task="semantic", semantic=CLASSES, names=dict(CLASSES.names))
    for values in (info.to_values(), info.to_strings()):
        assert ModelInfo.from_values(values, place="x") == info
    assert ModelInfo.from_values(replace(info, semantic=None).to_strings(), place="x").semantic is None
    with pytest.raises(InputError, match=r"x: metadata semantic: .* is not a description of semantic classes"):
        ModelInfo.from_values({"semantic": "{'names': {1: 'a'}}"}, place="x")


@pytest.mark.parametrize(("task", "metrics"), [("semantic", ["mIoU"]), ("joint", ["mAP50-95", "mIoU"])])
def test_accuracy_decides_on_fp16_with_data(task: str, metrics: list[str], tmp_path: Path) -> None:
    for kind in ("images", "labels", "masks"):
        (tmp_path / kind / "val").mkdir(parents=True)
    image, semantic_mask = paint_image((64, 96))
    cv2.imwrite(str(tmp_path / "images/val/a.png"), image)
    cv2.imwrite(str(tmp_path / "masks/val/a.png"), semantic_mask)
    (tmp_path / "labels/val/a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    data = tmp_path / "set.yaml"
    data.write_text(
        "path: .\ntrain: images/val\nval: images/val\nnames: [square, disc]\nsemantic: {names: [road, sky, car]}\n"
    )
    job = build_semantic_job(tmp_path, task, half=True, data=str(data))
    report = check_export(job, export_onnx(job), measure=build_accuracy_meter(job))
    text = ", ".join(rf"{metric} \d\.\d{{3}}, PyTorch \d\.\d{{3}}" for metric in metrics)
    assert re.search(f"; {text}$", report.text)
