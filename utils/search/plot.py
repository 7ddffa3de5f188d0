"""evolve.png: fitness over every hyperparameter of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from utils.plots.figure import new_figure, save_figure
from utils.search.evolve_csv import Generation
from utils.search.genes import Gene

COLUMNS = 6
LOGARITHMIC = 20.0  # axes span decades where the largest value is so many times the smallest


def plot_evolution(rows: Sequence[Generation], file: Path, genes: Mapping[str, Gene]) -> None:
    """Draw fitness over generations, then over the values of each hyperparameter; later generations are darker.

    Args:
        rows: at least one.
        file: .png or .jpg to write.
        genes: the table; those that do not mutate are drawn in gray.
    """
    fitness = np.array([row.fitness for row in rows])
    best = int(fitness.argmax())
    names = list(rows[0].genes)
    lines = -(-(len(names) + 1) // COLUMNS)
    figure = new_figure(2.2 * COLUMNS, 2.0 * lines, dpi=100)
    axes = [figure.add_subplot(lines, COLUMNS, number + 1) for number in range(len(names) + 1)]
    _plot_progress(axes[0], fitness, best)
    for place, name in zip(axes[1:], names, strict=True):
        values = np.array([row.genes[name] for row in rows])
        _plot_gene(place, f"{name} = {values[best]:.4g}", values, fitness, best, mutates=genes[name].gain > 0)
    figure.supylabel("fitness", fontsize=9)
    save_figure(figure, file)


def _plot_progress(axes: Axes, fitness: np.ndarray, best: int) -> None:
    """Fitness of each generation and the best one so far."""
    numbers = np.arange(1, len(fitness) + 1)
    axes.step(numbers, np.maximum.accumulate(fitness), where="post", color="tab:green", linewidth=1.5)
    axes.scatter(numbers, fitness, c=numbers, cmap="viridis_r", s=14)
    axes.scatter(best + 1, fitness[best], marker="+", s=90, color="tab:red", zorder=3)
    _label(axes, f"generation {best + 1} of {len(fitness)}")


def _plot_gene(axes: Axes, title: str, values: np.ndarray, fitness: np.ndarray, best: int, *, mutates: bool) -> None:
    """Fitness over the values of one hyperparameter, the best generation marked."""
    if mutates:
        axes.scatter(values, fitness, c=np.arange(len(values)), cmap="viridis_r", s=14)
    else:
        axes.scatter(values, fitness, color="tab:gray", s=14)
    axes.scatter(values[best], fitness[best], marker="+", s=90, color="tab:red", zorder=3)
    if values.min() > 0 and values.max() > LOGARITHMIC * values.min():
        axes.set_xscale("log")
    _label(axes, title)


def _label(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.3)
