"""evolve.csv: one row a generation: what it reached, its hyperparameters, its fitness and number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.results_csv import format_table

FITNESS, NUMBER = "fitness", "generation"  # columns beside results (with a slash) and hyperparameters (without)


@dataclass(frozen=True)
class Generation:
    """One training.

    Attributes:
        results: metrics and validation losses by their names in results.csv; nan where training broke down.
        genes: hyperparameters that evolve.
        fitness: higher is better; 0 where training broke down.
        number: of the generation, from 1; several processes may end theirs in another order.
    """

    results: dict[str, float]
    genes: dict[str, float]
    fitness: float
    number: int


def write_generations(file: Path, rows: Sequence[Generation], *, width: int = 20) -> None:
    """Write the table as a whole; readers see the old one or the new one.

    Args:
        rows: at least one.
        width: characters of a column.
    """
    table = [
        {name: f"{value:.5g}" for name, value in row.results.items()}
        | {name: f"{value:.5g}" for name, value in row.genes.items()}
        | {FITNESS: f"{row.fitness:.6g}", NUMBER: str(row.number)}
        for row in rows
    ]
    with atomic_write(file) as temporary:
        temporary.write_text(format_table(table, width=width), encoding="utf-8")


def read_generations(file: Path, genes: Sequence[str]) -> list[Generation]:
    """Rows of an evolve.csv; none where there is no such file.

    Args:
        genes: names of the hyperparameters that its evolution may change.

    Raises:
        InputError: other columns, or a cell that is no number.
    """
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    columns = [name.strip() for name in lines[0].split(",")] if lines else []
    wanted, found = {FITNESS, NUMBER, *genes}, {name for name in columns if "/" not in name}
    if wanted != found:
        raise InputError(
            f"{file}:1: not the columns of this evolution (differing: {', '.join(sorted(wanted ^ found))}); "
            "choose another --name"
        )
    return [_read_row(line, columns, f"{file}:{number}") for number, line in enumerate(lines[1:], 2) if line.strip()]


def _read_row(line: str, columns: Sequence[str], place: str) -> Generation:
    try:
        row: Mapping[str, float] = dict(zip(columns, map(float, line.split(",")), strict=True))
    except ValueError as error:
        raise InputError(f"{place}: not {len(columns)} numbers; remove the line") from error
    results = {name: value for name, value in row.items() if "/" in name}
    genes = {name: value for name, value in row.items() if name not in {*results, FITNESS, NUMBER}}
    fitness = 0.0 if math.isnan(row[FITNESS]) else row[FITNESS]
    return Generation(results, genes, fitness, int(row[NUMBER]))
