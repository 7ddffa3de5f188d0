"""Reading and formatting of results.csv: one row per epoch, columns padded to equal width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER

Row = dict[str, str]  # column name -> number as text


def format_row(cells: Sequence[object], *, width: int) -> str:
    """One line: cells right-aligned in `width` characters, separated by commas."""
    return ",".join(f"{cell!s:>{width}}" for cell in cells) + "\n"


def format_table(rows: Sequence[Row], *, width: int = 20) -> str:
    """The whole file; columns in order of first appearance, `nan` for missing values."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [format_row([row.get(name, "nan") for name in columns], width=width) for row in rows]
    return "".join([format_row(columns, width=width), *lines])


def make_row(epoch: int, metrics: Mapping[str, float]) -> Row:
    """Row of an epoch; values have five significant digits."""
    return {"epoch": str(epoch)} | {name: f"{float(value):.5g}" for name, value in metrics.items()}


def read_rows(file: str | Path) -> list[Row]:
    """Rows of a results.csv as text; truncated and non-numeric lines are skipped with a warning.

    Raises:
        InputError: the file cannot be read, or its first column is not `epoch`.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); use the results.csv of a run") from error
    columns = [name.strip() for name in lines[0].split(",")] if lines else []
    if columns[:1] != ["epoch"]:
        raise InputError(f"{file}:1: first column is {columns[:1]}, not 'epoch'; use the results.csv of a run")
    rows: list[Row] = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(columns) and all(map(_is_number, cells)):
            rows.append(dict(zip(columns, cells, strict=True)))
        elif line.strip():
            LOGGER.warning(f"{file}:{number}: not {len(columns)} numbers; line skipped")
    return rows


def read_results(file: str | Path) -> dict[str, np.ndarray]:
    """Column name -> (epochs,) float64 of a results.csv, including `epoch`; errors as in `read_rows`."""
    rows = read_rows(file)
    names = rows[0] if rows else {}
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
