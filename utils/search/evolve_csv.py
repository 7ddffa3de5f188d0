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
from utils.core.results_csv import format_table

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


def read_generations(file: Path, genes: Sequence[str]) -> list[Generation]:
    """Rows of an evolve.csv; empty if there is no such file.

    Args:
        genes: names of the hyperparameters that evolve.

    Raises:
        InputError: other columns, or a cell that is not a number.
    """
    if not file.exists():
        return []
    header, *lines = file.read_text(encoding="utf-8").splitlines() or [""]
    columns = [name.strip() for name in header.split(",")]
    if differing := {FITNESS, NUMBER, *genes} ^ {name for name in columns if "/" not in name}:
        text = f"{file}:1: not the columns of this evolution (differing: {', '.join(sorted(differing))})"
        raise InputError(f"{text}; choose another --name")
    return [_read_row(line, columns, f"{file}:{number}") for number, line in enumerate(lines, 2) if line.strip()]


def _read_row(line: str, columns: Sequence[str], place: str) -> Generation:
    try:
        row = dict(zip(columns, map(float, line.split(",")), strict=True))
    except ValueError as error:
        raise InputError(f"{place}: not {len(columns)} numbers; remove the line") from error
    fitness, number = row.pop(FITNESS), int(row.pop(NUMBER))
    results = {name: row.pop(name) for name in columns if "/" in name}
    return Generation(results, row, 0.0 if math.isnan(fitness) else fitness, number)
