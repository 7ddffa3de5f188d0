from __future__ import annotations

import logging
from pathlib import Path

import pytest

from utils.core.errors import InputError
from utils.core.results_csv import read_results, read_rows, set_aside


def test_read_results_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results\.csv: cannot be read"):
        read_results(tmp_path / "results.csv")
    (tmp_path / "labels.csv").write_text("name,count\n")
    with pytest.raises(InputError, match=r"labels\.csv:1: first column is 'name'"):
        read_results(tmp_path / "labels.csv")


def test_read_results_without_epochs(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text("epoch, loss\n")
    assert read_results(file) == {}


def test_rows_are_one_per_epoch_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "results.csv"
    file.write_text("epoch, loss\n1, 0.5\n0, 0.9\n1, 0.4\n")
    with caplog.at_level(logging.WARNING, "openyolov5"):
        assert read_rows(file) == [{"epoch": "0", "loss": "0.9"}, {"epoch": "1", "loss": "0.4"}]
    assert f"{file}: 3 rows of 2 epochs" in caplog.text


def test_damaged_files_are_kept_under_names_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    for content in ("one", "two"):
        file.write_text(content)
        set_aside(file, "damaged")
        file.unlink(missing_ok=True)
    copies = {path.read_text() for path in tmp_path.iterdir()}
    assert copies == {"one", "two"}
