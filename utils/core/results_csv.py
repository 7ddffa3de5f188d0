"""Reading and formatting of results.csv: one row per epoch, columns padded to equal width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.core.files import increment_path, read_file
from utils.core.logging import LOGGER

MAX_BYTES = 256 * 2**20
Row = dict[str, str]  # column name -> number as text


@dataclass(frozen=True)
class Table:
    """Content of a table of numbers.

    Attributes:
        lines: cells by line number, of the lines with a number in each column.
        unreadable: numbers of the other lines, without blank ones.
    """

    columns: list[str]
    lines: dict[int, list[str]]
    unreadable: list[int]


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


def read_table(file: str | Path) -> Table:
    """Content of a table; a byte that is not UTF-8 makes its line unreadable.

    Raises:
        InputError: the file cannot be read.
    """
    lines = read_file(file, max_bytes=MAX_BYTES).decode("utf-8-sig", errors="replace").splitlines() or [""]
    table = Table([name.strip() for name in lines[0].split(",")], {}, [])
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(table.columns) and all(map(_is_number, cells)):
            table.lines[number] = cells
        elif line.strip():
            table.unreadable.append(number)
    return table


def load_rows(file: str | Path, columns: Sequence[str] = ()) -> tuple[list[Row], str]:
    """Rows of a results.csv as text, in order of epochs, and what is wrong with the file ("" if nothing).

    Of several rows of an epoch the last one counts. Lines that are truncated or not numbers are left out.

    Args:
        columns: names to assume where the first line is damaged, if it has as many.

    Raises:
        InputError: the file cannot be read, or its first column is not `epoch`.
    """
    table = read_table(file)
    names, problem = table.columns, ""
    if names[0] != "epoch" or "\ufffd" in "".join(names):
        problem = f"{file}:1: not the names of columns, or damaged"
        if len(columns) != len(names):
            raise InputError(f"{file}:1: first column is {names[0]!r}, not 'epoch'; use the results.csv of a run")
        names = list(columns)
    lines = {number: cells for number, cells in table.lines.items() if cells[0].isdecimal()}
    rows = {float(cells[0]): dict(zip(names, cells, strict=True)) for cells in lines.values()}
    if len(rows) < len(lines):
        problem = f"{file}: {len(lines)} rows of {len(rows)} epochs"
    if unreadable := sorted([*table.unreadable, *(table.lines.keys() - lines.keys())]):
        problem = f"{file}:{format_lines(unreadable)}: not {len(names)} numbers"
    return [rows[epoch] for epoch in sorted(rows)], problem


def read_rows(file: str | Path) -> list[Row]:
    """Rows as of `load_rows`, with a warning if something is wrong with the file; errors as there."""
    rows, problem = load_rows(file)
    if problem:
        LOGGER.warning(f"WARNING {problem}; the other rows are used")
    return rows


def read_results(file: str | Path) -> dict[str, np.ndarray]:
    """Column name -> (epochs,) float64 of a results.csv, including `epoch`; errors as in `load_rows`."""
    rows = read_rows(file)
    names = rows[0] if rows else {}
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def set_aside(file: Path, problem: str) -> None:
    """Keep a damaged table as `<file>.damaged`, with a warning, before its readable rows are written again."""
    copy = increment_path(file.with_name(f"{file.name}.damaged"))
    try:
        try:
            copy.hardlink_to(file)  # so that the old file stays until the new one is complete
        except OSError:
            file.rename(copy)
    except OSError as error:
        LOGGER.warning(f"WARNING {problem}; replaced, as it cannot be renamed ({error.strerror})")
    else:
        LOGGER.warning(f"WARNING {problem}; kept as {copy.name}, its readable rows in {file.name}")


def format_lines(numbers: Sequence[int]) -> str:
    """The first line number, and how many there are."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} and {len(numbers) - 1} more lines"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
