from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from utils.loggers.tensorboard import TensorBoardLogger


def read_events(folder: Path, tag: str) -> dict[int, float]:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {event.step: event.value for event in accumulator.Scalars(tag)}


def test_tensorboard_scalars_survive_resume(tmp_path: Path) -> None:
    first, second = TensorBoardLogger(tmp_path), TensorBoardLogger(tmp_path)
    for epoch in range(3):
        first.on_fit_epoch_end(epoch=epoch, metrics={"val/box_loss": epoch / 2})
    first.teardown()
    second.on_fit_epoch_end(epoch=2, metrics={"val/box_loss": 8.0})
    second.on_train_end()
    second.teardown()  # closing twice is harmless
    assert read_events(tmp_path, "val/box_loss") == {0: 0.0, 1: 0.5, 2: 8.0}


def test_tensorboard_missing_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    logger = TensorBoardLogger(tmp_path)
    with caplog.at_level(logging.INFO, "openyolov5"):
        for epoch in range(2):
            logger.on_fit_epoch_end(epoch=epoch, metrics={"loss": 1.0})
    assert caplog.text.count("No TensorBoard files") == 1
    assert list(tmp_path.iterdir()) == []
