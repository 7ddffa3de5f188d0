"""Files of an evolution: evolve.csv with a row per generation, hyp_evolve.yaml with the best hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.results_csv import format_lines, format_table, read_table, set_aside

FITNESS, NUMBER = "fitness", "generation"  # columns beside results (with a slash) and hyperparameters (without)


@dataclass(frozen=True)
class Generation:
    """One training.

    Attributes:
        results: metrics and validation losses by their names in results.csv; nan where the loss was not finite.
        genes: the hyperparameters that evolve.
        fitness: higher is better; 0 where the loss was not finite.
        number: from 1.
    """

    results: dict[str, float]
    genes: dict[str, float]
    fitness: float
    number: int


def write_generations(file: Path, rows: Sequence[Generation], *, width: int = 20) -> None:
    """Write evolve.csv atomically, with columns of `width` characters."""
    table = [
        {name: f"{value:.5g}" for name, value in (row.results | row.genes).items()}
        | {FITNESS: f"{row.fitness:.6g}", NUMBER: str(row.number)}
        for row in rows
    ]
    with atomic_write(file) as temporary:
        temporary.write_text(format_table(table, width=width), encoding="utf-8")


def write_best_hyp(file: Path, rows: Sequence[Generation], base_hyp: Hyperparameters) -> None:
    """Write hyp_evolve.yaml: `base_hyp` with the genes of the fittest generation, its results as comments."""
    best = max(rows, key=lambda row: row.fitness)
    lines = [f"# The best of {len(rows)} generations, number {best.number}, fitness {best.fitness:.5g}:"]
    lines += [f"# {name}: {value:.5g}" for name, value in best.results.items()]
    lines += [yaml.safe_dump(base_hyp.to_dict() | best.genes, sort_keys=False, allow_unicode=True)]
    with atomic_write(file) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def read_generations(file: Path, genes: Sequence[str], *, width: int = 20) -> list[Generation]:
    """Rows of an evolve.csv; empty if there is no such file.

    A damaged file is set aside, with a warning, and the rows that can be read are written again.

    Args:
        genes: names of the hyperparameters that evolve.
        width: characters per column.

    Raises:
        InputError: the file cannot be read or has other columns.
    """
    if not file.exists():
        return []
    table = read_table(file)
    if differing := {FITNESS, NUMBER, *genes} ^ {name for name in table.columns if "/" not in name}:
        shown = ", ".join(f"{name!r:.40}" for name in sorted(differing)[:5])
        raise InputError(
            f"{file}:1: not the columns of this evolution (differing: {shown}); correct the line, or choose another "
            "--name"
        )
    rows, unreadable = {}, list(table.unreadable)
    for line, cells in table.lines.items():
        row = _to_generation(dict(zip(table.columns, map(float, cells), strict=True)))
        if row is None or row.number in rows:
            unreadable.append(line)
        else:
            rows[row.number] = row
    if unreadable:
        problem = f"not {len(table.columns)} valid numbers, or not a new {NUMBER}"
        set_aside(file, f"{file}:{format_lines(sorted(unreadable))}: {problem}")
        write_generations(file, list(rows.values()), width=width)
    return list(rows.values())


def _to_generation(row: dict[str, float]) -> Generation | None:
    """The generation of a row; None if its number or a hyperparameter is not valid."""
    fitness, number = row.pop(FITNESS), row.pop(NUMBER)
    results = {name: row.pop(name) for name in list(row) if "/" in name}
    if not (number.is_integer() and number >= 1 and all(map(math.isfinite, row.values()))):
        return None
    return Generation(results, row, fitness if math.isfinite(fitness) else 0.0, int(number))
