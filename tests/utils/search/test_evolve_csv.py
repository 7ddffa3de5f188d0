from __future__ import annotations

import logging
from pathlib import Path

import pytest

from utils.core.errors import InputError
from utils.search.evolve_csv import Generation, read_generations, write_generations

ROWS = [
    Generation({"metrics/mAP_0.5": 0.25, "val/box_loss": 0.5}, {"lr0": 0.012346, "mosaic": 1.0}, 0.25, 2),
    Generation({"metrics/mAP_0.5": float("nan"), "val/box_loss": float("nan")}, {"lr0": 0.1, "mosaic": 0.5}, 0.0, 1),
]


def test_rows_survive_a_round_trip_in_columns_of_equal_width(tmp_path: Path) -> None:
    file = tmp_path / "evolve.csv"
    write_generations(file, ROWS, width=23)
    read = read_generations(file, ["mosaic", "lr0"])
    assert read[0] == ROWS[0]
    assert (read[1].genes, read[1].fitness, read[1].number) == (ROWS[1].genes, 0.0, 1)
    cells = [line.split(",") for line in file.read_text().splitlines()]
    assert {len(cell) for row in cells for cell in row} == {23}
    names = ["metrics/mAP_0.5", "val/box_loss", "lr0", "mosaic", "fitness", "generation"]
    assert [cell.strip() for cell in cells[0]] == names


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_generations(tmp_path / "evolve.csv", ["lr0"]) == []


def test_foreign_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "evolve.csv"
    write_generations(file, ROWS)
    with pytest.raises(InputError, match=r"evolve\.csv:1: .*differing: 'mosaic'"):
        read_generations(file, ["lr0"])
    file.write_bytes(file.read_bytes().replace(b"lr0", b"l\xff0"))
    with pytest.raises(InputError, match=r"evolve\.csv:1: .*correct the line, or choose another --name"):
        read_generations(file, ["lr0", "mosaic"])


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"1, 2, 3", id="too few numbers"),
        pytest.param(b"0.1, 0.1, 0.1, 0.1, 0.1, \xff3", id="not UTF-8"),
        pytest.param(b"0.1, 0.1, 0.1, 0.1, 0.1, 2", id="number of another row"),
        pytest.param(b"0.1, 0.1, 0.1, 0.1, 0.1, nan", id="number nan"),
        pytest.param(b"0.1, 0.1, 0.1, 0.1, 0.1, 1e999", id="number infinite"),
        pytest.param(b"0.1, 0.1, nan, 0.1, 0.1, 3", id="hyperparameter nan"),
    ],
)
def test_damaged_rows_are_set_aside(line: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "evolve.csv"
    write_generations(file, ROWS, width=23)
    intact = file.read_bytes()
    file.write_bytes(intact + line + b"\n")
    with caplog.at_level(logging.WARNING, "openyolov5"):
        assert [row.number for row in read_generations(file, ["lr0", "mosaic"], width=23)] == [2, 1]
    assert f"{file}:4: not 6 valid numbers" in caplog.text
    assert len(caplog.records) == 1
    assert file.read_bytes() == intact
    assert (tmp_path / "evolve.csv.damaged").read_bytes() == intact + line + b"\n"
