"""Full-module pickles: import paths of the original releases, and the same network when loaded."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

import torch
from tiny_jobs import NAMES, TINY_GRAPH

from models.checkpoint import save_checkpoint
from models.yolo import DetectionModel
from utils.export.base import ExportOptions
from utils.export.pickle import export_pickle
from utils.export.run import build_job
from utils.tasks.networks import load_checkpoint

ALLOWED = ("models.yolo ", "models.common ", "torch.nn.modules.", "torch._utils ", "collections OrderedDict", "torch ")


def find_globals(file: Path) -> set[str]:
    """Find the globals that a pickle refers to."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return {str(arg) for code, arg, _ in pickletools.genops(archive.read(name)) if code.name == "GLOBAL"}


def test_loads_as_an_official_checkpoint(tmp_path: Path) -> None:
    model = DetectionModel(TINY_GRAPH)
    model.names = dict(NAMES)
    values = {"task": "detect", "yaml": model.yaml, "names": NAMES, "model": model.state_dict(), "hyp": {"lr0": 0.1}}
    weights = tmp_path / "söme.pt"
    save_checkpoint(weights, values)
    file = export_pickle(build_job(weights, load_checkpoint(weights).model.fuse(), ExportOptions(imgsz=(64, 96))))
    assert file.name == "söme_pickle.pt"
    globals_ = find_globals(file)
    assert {"models.yolo DetectionModel", "models.yolo Detect", "models.common Conv"} <= globals_
    assert not [name for name in globals_ if not name.startswith(ALLOWED) and name != "__builtin__ set"]
    loaded = load_checkpoint(file)
    assert loaded.official and loaded.names == NAMES and loaded.hyp == {"lr0": 0.1} and loaded.epoch == -1
    assert list(loaded.state_dict) == list(model.state_dict()), "not fused"
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(loaded.model(images)[0], model.eval()(images)[0], atol=0.5, rtol=1e-2)
