"""Whole-module checkpoints: addresses as in the original's files, and the same network when read back."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

import torch
from tiny_jobs import NAMES, TINY_GRAPH

from models.checkpoint import load_checkpoint, save_checkpoint
from models.yolo import DetectionModel
from utils.export.base import ExportOptions
from utils.export.pickle import export_pickle
from utils.export.run import build_job

ALLOWED = ("models.yolo ", "models.common ", "torch.nn.modules.", "torch._utils ", "collections OrderedDict", "torch ")


def addresses(file: Path) -> set[str]:
    """Globals that a checkpoint names."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return {str(arg) for code, arg, _ in pickletools.genops(archive.read(name)) if code.name == "GLOBAL"}


def test_another_tool_reads_it(tmp_path: Path) -> None:
    model = DetectionModel(TINY_GRAPH)
    model.names = dict(NAMES)
    values = {"task": "detect", "yaml": model.yaml, "names": NAMES, "model": model.state_dict(), "hyp": {"lr0": 0.1}}
    weights = tmp_path / "söme.pt"
    save_checkpoint(weights, values)
    file = export_pickle(build_job(weights, load_checkpoint(weights).model.fuse(), ExportOptions(imgsz=(64, 96))))
    assert file.name == "söme_pickle.pt"
    found = addresses(file)
    assert {"models.yolo DetectionModel", "models.yolo Detect", "models.common Conv"} <= found
    assert not [name for name in found if not name.startswith(ALLOWED) and name != "__builtin__ set"]
    read = load_checkpoint(file)
    assert read.official and read.names == NAMES and read.hyp == {"lr0": 0.1} and read.epoch == -1
    assert list(read.state_dict) == list(model.state_dict()), "batch norms are there, nothing is fused"
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(read.model(images)[0], model.eval()(images)[0], atol=0.5, rtol=1e-2)
