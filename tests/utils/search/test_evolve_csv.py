from __future__ import annotations

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


def test_foreign_columns_and_lines_are_named(tmp_path: Path) -> None:
    file = tmp_path / "evolve.csv"
    write_generations(file, ROWS)
    with pytest.raises(InputError, match=r"evolve\.csv:1: .*differing: mosaic"):
        read_generations(file, ["lr0"])
    file.write_text(file.read_text() + "1, 2, 3\n")
    with pytest.raises(InputError, match=r"evolve\.csv:4: not 6 numbers; remove the line"):
        read_generations(file, ["lr0", "mosaic"])
