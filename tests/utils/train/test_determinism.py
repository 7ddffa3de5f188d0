from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_trainer import make_trainer

from utils.train import determinism
from utils.train.determinism import NondeterminismReport, make_deterministic, parse_operation

MESSAGE = (
    "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True, warn_only=True)'. You can file an issue"
)


@pytest.fixture(autouse=True)
def unchanged_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(determinism.LOGGER, "propagate", True)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_operations_are_named() -> None:
    assert parse_operation(MESSAGE) == "adaptive_max_pool2d_backward_cuda"
    assert parse_operation("Deterministic behavior was enabled with cuBLAS but").startswith(
        "Deterministic behavior was"
    )


def test_nondeterministic_operations_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """With PyTorch's own warning, raised by hand: on a processor every operation of these networks is repeatable."""
    caplog.set_level("INFO", "openyolov5")
    report = NondeterminismReport()
    shown = warnings.showwarning
    for _ in range(2):
        report.on_train_epoch_start(epoch=0)
        with pytest.warns(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)
        report.on_train_epoch_end(epoch=0)
    assert "all operations of this network are deterministic" in caplog.text
    assert warnings.showwarning is shown
    report = NondeterminismReport()
    report.on_train_epoch_start(epoch=0)
    for _ in range(2):
        warnings.warn(MESSAGE, stacklevel=1)
    report.on_train_epoch_end(epoch=0)
    assert caplog.text.count("not deterministic on this device: adaptive_max_pool2d_backward_cuda\n") == 1


def test_other_warnings_are_passed_on() -> None:
    report, seen = NondeterminismReport(), []
    before = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: seen.append(str(message))
    try:
        report.on_train_epoch_start(epoch=0)
        warnings.warn("of another kind", stacklevel=1)
        report.teardown()
    finally:
        warnings.showwarning = before
    assert seen == ["of another kind"]


def test_the_flag_reaches_the_run(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "openyolov5")
    make_trainer(tiny_data, tmp_path, deterministic=True).fit()
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "results repeat on this machine" in caplog.text
    assert "all operations of this network are deterministic on this device" in caplog.text


def test_existing_workspace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
