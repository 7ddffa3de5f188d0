from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from utils.config.hyp import Hyperparameters
from utils.datasets.index.data_yaml import DataSpec
from utils.tasks.base import TaskOptions
from utils.tasks.detect import DetectionTask
from utils.train.amp import checked_amp, setting_of, wanted_dtype

BF16 = torch.bfloat16
TASK = DetectionTask(DataSpec(Path(), Path(), {0: "thing"}, {}), Hyperparameters(), TaskOptions())


class Boxes(nn.Module):
    """Stands in for a detector: gives one box, moved by `shift` where autocast is on."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, images: Tensor) -> tuple[Tensor]:
        moved = self.shift if torch.is_autocast_enabled("cpu") else 0.0
        return (torch.tensor([[[100.0 + moved, 100, 20, 20, 0.9]]]),)


@pytest.mark.parametrize(("shift", "kept"), [(5.0, True), (60.0, False), (float("nan"), False)])
def test_amp_is_kept_where_boxes_agree(shift: float, kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    model = Boxes(shift).train()
    found = checked_amp(model, torch.bfloat16, torch.device("cpu"), agree=TASK.outputs_agree)
    assert found == (torch.bfloat16 if kept else None)
    assert model.training


def test_off_stays_off() -> None:
    assert checked_amp(Boxes(0), None, torch.device("cpu"), agree=TASK.outputs_agree) is None


def test_only_the_best_boxes_count() -> None:
    exact = torch.zeros(1, 200, 5)
    exact[0, :, 4] = torch.linspace(1, 0, 200)
    mixed = exact.clone()
    mixed[0, 150, 0] = 1000
    assert TASK.outputs_agree((exact, []), (mixed, []))
    mixed[0, 50, 0] = 1000
    assert not TASK.outputs_agree((exact, []), (mixed, []))


@pytest.mark.parametrize(
    ("setting", "has_bf16", "pays", "begun", "expected"),
    [
        *[("fp16", True, True, None, None), ("off", True, True, None, None)],
        *[("bf16", True, True, None, BF16), ("bf16", True, False, None, None), ("bf16", False, True, None, None)],
        *[("bf16", True, False, "bf16", BF16), ("bf16", True, True, "off", None), ("bf16", False, True, "bf16", None)],
    ],
)
def test_a_cpu_uses_bf16_where_asked_and_faster_and_a_resumed_run_what_it_used(
    setting: str,
    has_bf16: bool,
    pays: bool,
    begun: str | None,
    expected: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    monkeypatch.setattr("utils.train.amp.bf16_pays", lambda: pays)
    assert wanted_dtype(setting, torch.device("cpu"), begun) == expected


@pytest.mark.parametrize(("dtype", "setting"), [(torch.float16, "fp16"), (BF16, "bf16"), (None, "off")])
def test_a_checkpoint_says_what_it_was_trained_in(dtype: torch.dtype | None, setting: str) -> None:
    assert setting_of(dtype) == setting


@pytest.mark.parametrize(("setting", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("off", None)])
def test_cuda_uses_what_is_asked(setting: str, expected: torch.dtype | None) -> None:
    assert wanted_dtype(setting, torch.device("cuda")) == expected
