from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from utils.config.hyp import Hyperparameters
from utils.datasets.index.data_yaml import DataSpec
from utils.tasks.detect import DetectionTask
from utils.tasks.options import TaskOptions
from utils.train.amp import check_amp, format_amp, select_dtype

BF16 = torch.bfloat16
TASK = DetectionTask(DataSpec(Path(), Path(), {0: "thing"}, {}), Hyperparameters(), TaskOptions())


class Boxes(nn.Module):
    """A mock detector with one box, moved by `shift` under autocast."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, images: Tensor) -> tuple[Tensor]:
        moved = self.shift if torch.is_autocast_enabled("cpu") else 0.0
        return (torch.tensor([[[100.0 + moved, 100, 20, 20, 0.9]]]),)


@pytest.mark.parametrize(("shift", "kept"), [(5.0, True), (60.0, False), (float("nan"), False)])
def test_amp_is_kept_if_boxes_agree(shift: float, kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    model = Boxes(shift).train()
    dtype = check_amp(model, torch.bfloat16, torch.device("cpu"), agree=TASK.outputs_agree)
    assert dtype == (torch.bfloat16 if kept else None)
    assert model.training


def test_off_stays_off() -> None:
    assert check_amp(Boxes(0), None, torch.device("cpu"), agree=TASK.outputs_agree) is None


def test_only_the_best_boxes_count() -> None:
    exact = torch.zeros(1, 200, 5)
    exact[0, :, 4] = torch.linspace(1, 0, 200)
    mixed = exact.clone()
    mixed[0, 150, 0] = 1000
    assert TASK.outputs_agree((exact, []), (mixed, []))
    mixed[0, 50, 0] = 1000
    assert not TASK.outputs_agree((exact, []), (mixed, []))


@pytest.mark.parametrize(
    ("setting", "has_bf16", "faster", "previous", "expected"),
    [
        *[("fp16", True, True, None, None), ("off", True, True, None, None)],
        *[("bf16", True, True, None, BF16), ("bf16", True, False, None, None), ("bf16", False, True, None, None)],
        *[("bf16", True, False, "bf16", BF16), ("bf16", True, True, "off", None), ("bf16", False, True, "bf16", None)],
    ],
)
def test_cpu_uses_bf16_on_request_if_faster_and_keeps_it_on_resume(
    setting: str,
    has_bf16: bool,
    faster: bool,
    previous: str | None,
    expected: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    monkeypatch.setattr("utils.train.amp.is_bf16_faster", lambda: faster)
    assert select_dtype(setting, torch.device("cpu"), previous) == expected


@pytest.mark.parametrize(("dtype", "setting"), [(torch.float16, "fp16"), (BF16, "bf16"), (None, "off")])
def test_checkpoint_names_the_dtype(dtype: torch.dtype | None, setting: str) -> None:
    assert format_amp(dtype) == setting


@pytest.mark.parametrize(("setting", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("off", None)])
def test_cuda_uses_the_setting(setting: str, expected: torch.dtype | None) -> None:
    assert select_dtype(setting, torch.device("cuda")) == expected
