"""`utils.autobatch`, with mocks of CUDA's memory."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from tiny_jobs import build_tiny_model
from torch import nn

from utils import autobatch
from utils.autobatch import check_train_batch_size


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("openyolov5"), "propagate", True)
    caplog.set_level("INFO", "openyolov5")
    return caplog


class OnCuda:
    """A parameter that claims to be on a GPU."""

    device = torch.device("cuda")


def test_cpu_uses_the_default(log: pytest.LogCaptureFixture) -> None:
    model = build_tiny_model()
    assert autobatch.autobatch(model, imgsz=64) == 16
    assert autobatch.autobatch(model, 64, 0.5, batch_size=4) == 4
    assert check_train_batch_size(model, imgsz=64, amp=False) == check_train_batch_size(nn.DataParallel(model)) == 16
    assert "memory is measured on CUDA only; batches of 4 on this CPU" in log.text


@pytest.mark.parametrize(("fraction", "expected"), [(0.8, 10), (0.5, 5), (0.1, 16)])
def test_batch_size_follows_free_memory(
    fraction: float, expected: int, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """100 bytes are free, a step takes 9 and 7 per image; where nothing fits, the default counts."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 200))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 40)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    modes = []

    def measure(model: nn.Module, batch: int, imgsz: int, device: torch.device) -> int:
        modes.append((model.training, imgsz, device.type))
        return 9 + 7 * batch

    monkeypatch.setattr(autobatch, "_measure", measure)
    model = build_tiny_model().eval()
    monkeypatch.setattr(nn.Module, "parameters", lambda self: iter([OnCuda()]))
    assert autobatch.autobatch(model, 96, fraction) == expected
    assert set(modes) == {(True, 96, "cuda")} and not model.training
    assert ("needs more than 10% of the free memory" in log.text) == (fraction == 0.1)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_measured_steps_have_gradients(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 77)
    model, cpu = build_tiny_model(task).train(), torch.device("cpu")
    shapes, gradients = [], []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    convolution.weight.register_hook(lambda gradient: gradients.append(gradient.shape))
    assert autobatch._measure(model, 2, 64, cpu) == 77
    assert shapes == [(2, 3, 64, 64)] and gradients == [convolution.weight.shape]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert autobatch._measure(model.requires_grad_(False), 2, 64, cpu) == 77


def test_out_of_memory_and_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    model: Any = build_tiny_model()

    def fail(error: Exception) -> Any:
        def forward(images: torch.Tensor) -> Any:
            raise error

        return forward

    monkeypatch.setattr(model, "forward", fail(torch.OutOfMemoryError("CUDA out of memory")))
    assert autobatch._measure(model, 2, 64, torch.device("cpu")) is None
    monkeypatch.setattr(model, "forward", fail(RuntimeError("size mismatch")))
    with pytest.raises(RuntimeError, match="size mismatch"):
        autobatch._measure(model, 2, 64, torch.device("cpu"))
