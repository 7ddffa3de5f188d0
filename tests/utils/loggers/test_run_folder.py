from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.core.results_csv import read_results
from utils.loggers import run_folder
from utils.loggers.run_folder import CSVLogger, EpochLogger, ResultsPlotter


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


@pytest.mark.parametrize(
    ("content", "problem", "epochs"),
    [
        pytest.param(b"epoch, loss\n0, 1\n1, 2\n", "", [0, 1, 2], id="intact"),
        pytest.param(b"epoch, loss\n0, 1\n1, \xff\n", ":3: not 2 numbers", [0, 2], id="bad byte in a row"),
        pytest.param(b"epoch, l\xffss\n0, 1\n1, 2\n", ":1: not the names", [0, 1, 2], id="bad byte in the names"),
        pytest.param(b"epock, loss\n0, 1\n1, 2\n", ":1: not the names", [0, 1, 2], id="damaged names"),
        pytest.param(b"epoch, loss\n0, 1\n1, 2\n1, 3\n", ": 3 rows of 2 epochs", [0, 1, 2], id="doubled row"),
        pytest.param(b"epoch, loss\nnan, 1\n-1, 2\n0.5, 1\n", ":2 and 2 more lines", [2], id="bad epochs"),
        pytest.param(b"", ":1: first column is ''", [2], id="empty"),
        pytest.param(b"\x89PNG\r\n\x00" * 99, ":1: first column is", [2], id="other file"),
    ],
)
def test_damaged_csv_is_set_aside_and_its_readable_rows_are_kept(
    content: bytes, problem: str, epochs: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, copy = tmp_path / "results.csv", tmp_path / "results.csv.damaged"
    file.write_bytes(content)
    logger = CSVLogger(file)
    with caplog.at_level(logging.WARNING, "openyolov5"):
        logger.on_fit_epoch_end(epoch=2, metrics={"loss": 9.0})
        assert f"{file}{problem}" in caplog.text if problem else not caplog.text
        assert len(caplog.records) == (1 if problem else 0)
        caplog.clear()
        results = read_results(file)
        assert not caplog.text
    assert results["epoch"].tolist() == epochs
    assert list(results) == ["epoch", "loss"]
    assert copy.exists() == bool(problem)
    if problem:
        assert copy.read_bytes() == content


def test_csv_that_cannot_be_written_warns_once_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "results.csv"
    logger = CSVLogger(file)
    logger.on_fit_epoch_end(epoch=0, metrics={"loss": 1.0})
    file.unlink()
    file.mkdir()  # like a file that another program holds
    (file / "content").touch()
    with caplog.at_level(logging.WARNING, "openyolov5"):
        logger.on_fit_epoch_end(epoch=1, metrics={"loss": 1.0})
        logger.on_fit_epoch_end(epoch=1, metrics={"loss": 1.0})
    assert caplog.text.count(f"{file}: cannot be written") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]
    (file / "content").unlink()
    file.rmdir()
    logger.on_fit_epoch_end(epoch=2, metrics={"loss": 1.0})
    assert read_results(file)["epoch"].tolist() == [0, 1, 2]


def test_line_of_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    lines = EpochLogger(100)
    lines.on_train_epoch_start(epoch=3)
    metrics = {"train/box_loss": 0.123456, "train/obj_loss": 2, "metrics/mAP_0.5:0.95": 0.5, "val/loss": 1, "x/lr0": 9}
    with caplog.at_level(logging.INFO, "openyolov5"):
        lines.on_fit_epoch_end(epoch=3, metrics=metrics)
    assert caplog.messages[0].startswith(
        "epoch 3/99: train: box_loss 0.1235, obj_loss 2 | metrics: mAP_0.5:0.95 0.5 | val: loss 1 | "
    )
    assert "lr0" not in caplog.text
    assert caplog.records[0].terminal is False  # type: ignore[attr-defined]


def test_results_png_takes_its_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot that takes half a second is drawn every ten seconds: in each long epoch, in some of the short ones."""
    now = [0.0]
    drawn: list[float] = []

    def draw(_: Path, file: Path) -> Path:
        drawn.append(now[0])
        now[0] += 0.5
        file.write_bytes(b"image")
        return file

    monkeypatch.setattr(run_folder, "perf_counter", lambda: now[0])
    monkeypatch.setattr(run_folder, "plot_results", draw)
    short = ResultsPlotter(tmp_path / "results.csv")
    for _ in range(24):
        now[0] += 1.0
        short.on_fit_epoch_end()
    assert drawn == [5.0, 15.5]
    assert [p.name for p in tmp_path.iterdir()] == ["results.png"]
    drawn.clear()
    long = ResultsPlotter(tmp_path / "results.csv")
    for _ in range(4):
        now[0] += 60.0
        long.on_fit_epoch_end()
    assert len(drawn) == 4


def test_results_png_that_cannot_be_drawn_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_folder, "FIRST_PLOT_S", 0)
    monkeypatch.setattr(run_folder, "MAX_PLOT_SHARE", 1e9)
    image = ResultsPlotter(tmp_path / "results.csv")
    with caplog.at_level(logging.WARNING, "openyolov5"):
        image.on_fit_epoch_end()
        image.on_fit_epoch_end()
    assert caplog.text.count("results.png is not up to date") == 1
