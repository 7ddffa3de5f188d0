"""Exports of networks with semantic masks: both outputs, free sizes, metadata, reported differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from semantic_nets import CLASSES, network
from torch import Tensor

from utils.backends.info import ModelInfo
from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export.base import ExportJob, ExportOptions
from utils.export.matching import Figures, Tolerance, compare_semantic_masks
from utils.export.pickle import export_pickle
from utils.export.run import build_job
from utils.export.table import export_formats
from utils.export.verify import FP32, MismatchError, check_export

CPU = torch.device("cpu")
CASES = [  # OpenVINO's models are made of ONNX's
    ("torchscript", "joint", True),
    ("torchscript", "semantic", False),
    ("onnx", "joint", True),
    ("onnx", "joint", False),
    ("onnx", "semantic", False),
    ("openvino", "joint", False),
    pytest.param("openvino", "joint", True, marks=pytest.mark.slow),
    pytest.param("onnx", "semantic", True, marks=pytest.mark.slow),
]


def job_of(folder: Path, task: str, **options: Any) -> ExportJob:
    settings = ExportOptions(**{"imgsz": (64, 96), **options})
    return build_job(folder / f"tiny {task}.pt", network(task).fuse(), settings)


@pytest.mark.parametrize(("include", "task", "dynamic"), CASES)
def test_outputs_agree_with_pytorch(include: str, task: str, dynamic: bool, tmp_path: Path) -> None:
    job = job_of(tmp_path, task, dynamic=dynamic)
    file = export_formats([include])[0].export(job)
    report = check_export(job, file)
    assert report.figures is not None
    assert report.figures.agreement is not None
    assert report.figures.agreement > 0.999
    assert (report.figures.compared > 0) == (task == "joint")
    assert "of the pixels" in report.text
    backend = load_backend(file, device=CPU)
    assert (backend.task, backend.semantic, backend.fixed_hw) == (task, CLASSES, None if dynamic else (64, 96))
    reference: Any = network(task)
    for size_hw in [(64, 96), *([(96, 32), (48, 176)] if dynamic else [])]:
        images = torch.rand(2, 3, *size_hw)
        with torch.inference_mode():
            found, wanted = backend.forward(images), reference(images)
        if task == "joint":
            torch.testing.assert_close(found[0], wanted.detection[0], atol=2e-3, rtol=1e-3)
            found, wanted = found[1], wanted.semantic
        assert found.shape == (2, 3, *size_hw)
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)


def test_half_of_onnx_agrees_nearly(tmp_path: Path) -> None:
    job = job_of(tmp_path, "joint", half=True)
    report = check_export(job, export_formats(["onnx"])[0].export(job))
    assert report.figures is not None
    assert report.figures.agreement is not None
    assert report.figures.agreement > 0.99


def test_a_file_that_differs_is_told(tmp_path: Path) -> None:
    job = job_of(tmp_path, "semantic")
    file = export_formats(["torchscript"])[0].export(job)
    head: Any = job.network.model
    head.semantic_head.classify.weight.data *= -1
    with pytest.raises(MismatchError, match="of the pixels have another class and logits are off by"):
        check_export(job, file)


@pytest.mark.parametrize("task", ["joint", "semantic"])
def test_eight_bits_and_nms_are_refused(task: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--int8 is not offered for semantic masks yet"):
        job_of(tmp_path, task, int8=True)
    with pytest.raises(InputError, match=rf"--nms is for detection models, this one is for {task}"):
        job_of(tmp_path, task, nms=True)


@pytest.mark.parametrize("task", ["joint", "semantic"])
def test_releases_without_semantic_masks_get_no_file(task: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"tiny {task}.pt: the original releases know no semantic masks"):
        export_pickle(job_of(tmp_path, task))


def logits(*classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor([[classes]]), 4).permute(0, 3, 1, 2).float()


def test_agreement_by_hand() -> None:
    figures = compare_semantic_masks(logits(0, 1, 2, 3), logits(0, 1, 2, 2), FP32)
    assert figures.agreement == 0.75
    assert figures.relative == pytest.approx(0.5)  # two of sixteen values off by one, mean size a quarter
    assert figures.problems == [
        "25.000% of the pixels have another class and logits are off by 0.5 of their mean size, "
        "allowed are 0.100% and 0.0001"
    ]
    loose = Tolerance(1, 1, 1, 1, 1, agreement=0.7)
    assert not compare_semantic_masks(logits(0, 1, 2, 3), logits(0, 1, 2, 2), loose).problems
    assert (figures + Figures(agreement=0.5)).agreement == 0.5
    assert Figures(relative=0.1, agreement=0.5).text() == "the class of 50.000% of the pixels, 0.1 of the mean output"
    assert Figures(2, 1.0, 0.1, 0.1, 0.5).text().endswith("(2 detections), and the class of 50.000% of the pixels")


def test_classes_in_metadata_and_back() -> None:
    info = ModelInfo(task="semantic", semantic=CLASSES, names=dict(CLASSES.names))
    for values in (info.to_values(), info.to_strings()):
        assert ModelInfo.from_values(values, place="x") == info
    assert ModelInfo.from_values(replace(info, semantic=None).to_strings(), place="x").semantic is None
    with pytest.raises(InputError, match=r"x: metadata semantic: .* is not a description of semantic classes"):
        ModelInfo.from_values({"semantic": "{'names': {1: 'a'}}"}, place="x")
