from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.engine.callbacks import Callbacks
from utils.engine.loggers import CSVLogger, TensorBoardLogger, read_results
from utils.errors import InputError


def test_csv_line_format(tmp_path: Path) -> None:
    file = tmp_path / "run" / "results.csv"
    CSVLogger(file).on_fit_epoch_end(epoch=0, metrics={"train/box_loss": 0.123456789, "x/lr0": 1e-7})
    header, row, end = file.read_text().split("\n")
    assert header == "               epoch,      train/box_loss,               x/lr0"
    assert row == "                   0,             0.12346,               1e-07"
    assert end == ""


def test_csv_width_and_tensor_values(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    CSVLogger(file, width=23).on_fit_epoch_end(epoch=3, metrics={"val/loss": torch.tensor(2.5)})  # type: ignore[dict-item]
    assert file.read_text().splitlines()[1] == f"{'3':>23},{'2.5':>23}"


def test_csv_resume_keeps_each_epoch_once(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    before, after = CSVLogger(file), CSVLogger(file)
    for epoch in range(5):
        before.on_fit_epoch_end(epoch=epoch, metrics={"loss": float(epoch)})
    for epoch in range(3, 6):  # last.pt was of epoch 2
        after.on_fit_epoch_end(epoch=epoch, metrics={"loss": 10.0 + epoch})
    results = read_results(file)
    assert results["epoch"].tolist() == [0, 1, 2, 3, 4, 5]
    assert results["loss"].tolist() == [0, 1, 2, 13, 14, 15]


def test_csv_fresh_run_replaces_older_file(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    CSVLogger(file).on_fit_epoch_end(epoch=7, metrics={"old": 1.0})
    CSVLogger(file).on_fit_epoch_end(epoch=0, metrics={"loss": 2.0})
    assert {name: list(values) for name, values in read_results(file).items()} == {"epoch": [0], "loss": [2]}


def test_csv_column_absent_in_some_epochs_is_nan(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "results.csv")
    logger.on_fit_epoch_end(epoch=0, metrics={"loss": 1.0})
    logger.on_fit_epoch_end(epoch=1, metrics={"loss": 0.5, "mAP": 0.25})
    np.testing.assert_array_equal(read_results(logger.file)["mAP"], [np.nan, 0.25])


def test_csv_torn_line_is_named_and_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "results.csv"
    file.write_text("epoch, loss\n0, 1.5\n1, 0.9\n2,")
    with caplog.at_level(logging.WARNING, "openyolov5"):
        assert read_results(file)["epoch"].tolist() == [0, 1]
    assert f"{file}:4: not 2 numbers" in caplog.text


def test_csv_unreadable_file_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "results.csv"
    file.write_text("")
    with caplog.at_level(logging.WARNING, "openyolov5"):
        CSVLogger(file).on_fit_epoch_end(epoch=2, metrics={"loss": 1.0})
    assert "written anew" in caplog.text
    assert read_results(file)["epoch"].tolist() == [2]


def test_read_results_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results\.csv: cannot be read"):
        read_results(tmp_path / "results.csv")
    (tmp_path / "labels.csv").write_text("name,count\n")
    with pytest.raises(InputError, match=r"labels\.csv:1: first column is \['name'\]"):
        read_results(tmp_path / "labels.csv")


def test_read_results_without_epochs(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text("epoch, loss\n")
    assert read_results(file) == {}


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
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    logger = TensorBoardLogger(tmp_path)
    with caplog.at_level(logging.INFO, "openyolov5"):
        for epoch in range(2):
            logger.on_fit_epoch_end(epoch=epoch, metrics={"loss": 1.0})
    assert caplog.text.count("No TensorBoard files") == 1
    assert list(tmp_path.iterdir()) == []


class Listener:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_fit_epoch_end(self, *, epoch: int, **_: object) -> None:
        self.heard.append(epoch)

    def teardown(self) -> None:
        self.heard.append("teardown")


def test_callbacks_reach_listeners_in_order() -> None:
    listener = Listener()
    callbacks = Callbacks([listener])
    callbacks.on("on_fit_epoch_end", lambda epoch, metrics: listener.heard.append(metrics))
    callbacks.run("on_fit_epoch_end", epoch=4, metrics={"a": 1})
    callbacks.run("on_train_start")
    callbacks.run("teardown")
    assert listener.heard == [4, {"a": 1}, "teardown"]


def test_callbacks_refuse_unknown_hooks() -> None:
    class Misspelt:
        def on_train_epoch_ended(self) -> None: ...

    with pytest.raises(ValueError, match=r"unknown hook 'on_fit_end'; near: \["):
        Callbacks().run("on_fit_end")
    with pytest.raises(ValueError, match=r"unknown hook 'on_train_epoch_ended'; near: \['on_train_epoch_end'"):
        Callbacks([Misspelt()])
    with pytest.raises(ValueError, match="unknown hook 'x'; there are"):
        Callbacks().on("x", print)
