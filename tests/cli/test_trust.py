"""--trust of the commands and trust=True of the hub: without it no program of a model file runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import detect
import hubconf
import val
from utils.backends.trust import UntrustedError
from utils.config.base import BaseConfig
from utils.config.classify import ClassifyPredictConfig, ClassifyValConfig
from utils.config.detect import DetectConfig
from utils.config.segment import SegmentPredictConfig, SegmentValConfig
from utils.config.val import ValConfig
from utils.predict.multi_backend import DetectMultiBackend

CONFIGS = (DetectConfig, ValConfig, SegmentPredictConfig, SegmentValConfig, ClassifyPredictConfig, ClassifyValConfig)


class SavesWhenRun(nn.Module):
    """A detector of two classes that writes a file when it is run."""

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "made")
        return torch.zeros(len(x), 10, 7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with such a model, an image and a data YAML."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(SavesWhenRun()).save("m.torchscript")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    cv2.imwrite("images/a.png", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images\nval: images\nnames: [a, b]\n")
    return tmp_path


@pytest.mark.parametrize("kind", CONFIGS)
def test_flag(kind: type[BaseConfig]) -> None:
    assert kind.from_args(["--trust"]).trust is True
    assert kind.from_args([]).trust is False


def run_detect(trust: bool) -> Any:
    return detect.run(weights="m.torchscript", source="images", data="data.yaml", imgsz=64, device="cpu", trust=trust)


def run_val(trust: bool) -> Any:
    return val.run(weights="m.torchscript", data="data.yaml", imgsz=64, device="cpu", workers=0, trust=trust)


def run_hub(trust: bool) -> Any:
    return hubconf.custom("m.torchscript", device="cpu", _verbose=False, trust=trust)(np.zeros((64, 64, 3), np.uint8))


def run_multi_backend(trust: bool) -> Any:
    return DetectMultiBackend("m.torchscript", trust=trust)(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("run", [run_detect, run_val, run_hub, run_multi_backend])
@pytest.mark.usefixtures("restore_log")
def test_programs_run_only_with_trust(run: Callable[[bool], Any], folder: Path) -> None:
    reason = r"^m\.torchscript: code/__torch__/\S+\.py:\d+: a call of torch\.save, .*use --trust \(hub: trust=True\)"
    with pytest.raises(UntrustedError, match=reason):
        run(False)
    assert not (folder / "made").exists()
    run(True)
    assert (folder / "made").exists()
