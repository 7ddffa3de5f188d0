"""results.csv: one row an epoch, columns padded to be read by eye as well as by programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER

Row = dict[str, str]  # column name -> number as written


def format_row(cells: Sequence[object], *, width: int) -> str:
    """One line of the file: cells right-aligned in `width` characters, commas between."""
    return ",".join(f"{cell!s:>{width}}" for cell in cells) + "\n"


def format_table(rows: Sequence[Row], *, width: int = 20) -> str:
    """The whole file; columns in order of first appearance, `nan` where a row lacks one."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [format_row([row.get(name, "nan") for name in columns], width=width) for row in rows]
    return "".join([format_row(columns, width=width), *lines])


def number_row(epoch: int, metrics: Mapping[str, float]) -> Row:
    """An epoch's values as the file holds them: five significant digits, the epoch whole."""
    return {"epoch": str(epoch)} | {name: f"{float(value):.5g}" for name, value in metrics.items()}


def read_rows(file: str | Path) -> list[Row]:
    """Rows of a results.csv as text; lines that are cut off or hold no numbers are passed over with a warning.

    Raises:
        InputError: there is no such file, or its first column is not `epoch`.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give the results.csv of a run") from error
    columns = [name.strip() for name in lines[0].split(",")] if lines else []
    if columns[:1] != ["epoch"]:
        raise InputError(f"{file}:1: first column is {columns[:1]}, not 'epoch'; give the results.csv of a run")
    rows: list[Row] = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(columns) and all(map(_is_number, cells)):
            rows.append(dict(zip(columns, cells, strict=True)))
        elif line.strip():
            LOGGER.warning(f"{file}:{number}: not {len(columns)} numbers; line passed over")
    return rows


def read_results(file: str | Path) -> dict[str, np.ndarray]:
    """Column name -> (epochs,) float64 of a results.csv, `epoch` among them; errors as `read_rows`."""
    rows = read_rows(file)
    names = rows[0] if rows else {}
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
