"""Plot of an evolution (evolve.png)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.plots.figure import create_figure, save_figure
from utils.search.evolve_csv import Generation
from utils.search.genes import GENES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 6
LOG_SCALE_RATIO = 20.0  # of the largest to the smallest value, above which the axis is logarithmic


def plot_evolution(rows: Sequence[Generation], file: Path) -> None:
    """Plot fitness over generations and over each hyperparameter, gray if it does not mutate; later ones are darker.

    Args:
        rows: at least one.
        file: .png or .jpg to write.
    """
    fitness = np.array([row.fitness for row in rows])
    numbers, best = np.arange(1, len(rows) + 1), int(fitness.argmax())
    names = list(rows[0].genes)
    lines = -(-(len(names) + 1) // COLUMNS)
    figure = create_figure(2.2 * COLUMNS, 2.0 * lines, dpi=100)
    axes = [figure.add_subplot(lines, COLUMNS, position + 1) for position in range(len(names) + 1)]
    axes[0].step(numbers, np.maximum.accumulate(fitness), where="post", color="tab:green", linewidth=1.5)
    _plot_fitness(axes[0], f"generation {best + 1} of {len(rows)}", numbers, fitness, mutates=True)
    for ax, name in zip(axes[1:], names, strict=True):
        values = np.array([row.genes[name] for row in rows])
        _plot_fitness(ax, f"{name} = {values[best]:.4g}", values, fitness, mutates=GENES[name].gain > 0)
        if values.min() > 0 and values.max() > LOG_SCALE_RATIO * values.min():
            ax.set_xscale("log")
    figure.supylabel("fitness", fontsize=9)
    save_figure(figure, file)


def _plot_fitness(ax: Axes, title: str, x: np.ndarray, fitness: np.ndarray, *, mutates: bool) -> None:
    """Scatter fitness over `x`, and mark the best generation."""
    colors = {"c": np.arange(len(x)), "cmap": "viridis_r"} if mutates else {"color": "tab:gray"}
    ax.scatter(x, fitness, s=14, **colors)  # type: ignore[arg-type]
    best = int(fitness.argmax())
    ax.scatter(x[best], fitness[best], marker="+", s=90, color="tab:red", zorder=3)
    ax.set_title(title, fontsize=8)
    ax.tick_params(labelsize=6)
    ax.grid(alpha=0.3)
