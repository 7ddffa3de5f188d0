"""Evaluation plots: precision and recall curves, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.plots.figure import class_color, create_figure, disable_mathtext, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

if TYPE_CHECKING:
    from utils.metrics.ap import APResult

MAX_LEGEND_CLASSES = 20  # with more classes, curves are thin gray lines without names
MAX_CELL_TEXT_CLASSES = 30  # with more classes, the confusion matrix has no numbers in its cells
MAX_TICKS = 100  # with more classes, it has no class names
MIN_FRACTION = 0.005  # of a column; smaller cells are empty


def plot_curves(result: APResult, names: Mapping[int, str], save_dir: Path, *, prefix: str = "") -> None:
    """Plot `PR_curve.png`, `P_curve.png`, `R_curve.png` and `F1_curve.png` at IoU 0.5.

    Args:
        result: metrics of k classes with labels; with k = 0 the axes are empty.
        names: class names by number.
        save_dir: output folder.
        prefix: prepended to the file names, for example `Box`.
    """
    curves = result.curves
    labels = [names.get(int(c), str(c)) for c in result.classes]
    pr_labels = [f"{label} {ap:.3f}" for label, ap in zip(labels, result.ap50, strict=True)]
    mean = f"all classes: mAP 0.5 {result.ap50.mean():.3f}" if len(labels) else ""
    pr = curves.precision_over_recall
    classes = result.classes.tolist()
    plot_lines(save_dir / f"{prefix}PR_curve.png", curves.grid, pr, pr_labels, mean, ("Recall", "Precision"), classes)
    for letters, title, values in (
        ("P", "Precision", curves.p),
        ("R", "Recall", curves.r),
        ("F1", "F1", curves.f1),
    ):
        mean, file = format_best(title, curves.grid, values), save_dir / f"{prefix}{letters}_curve.png"
        plot_lines(file, curves.grid, values, labels, mean, ("Confidence", title), classes)


def format_best(title: str, grid: np.ndarray, values: np.ndarray) -> str:
    """Label of the mean curve: its highest value and the score there."""
    if not len(values):
        return ""
    mean = values.mean(axis=0)
    return f"all classes: {title} {mean.max():.2f} at {grid[mean.argmax()]:.3f}"


def plot_lines(
    file: Path,
    grid: np.ndarray,
    values: np.ndarray,
    labels: list[str],
    mean_label: str,
    axis_names: tuple[str, str],
    classes: Sequence[int],
) -> None:
    """Plot a line for each class, values (k, 1000), and a thick line for the mean."""
    figure = create_figure(9, 6)
    axes = figure.add_subplot()
    has_names = len(labels) <= MAX_LEGEND_CLASSES
    handles = [
        axes.plot(grid, row, linewidth=1 if has_names else 0.5, color=class_color(c) if has_names else "0.75")[0]
        for row, c in zip(values, classes, strict=True)
    ]
    entries = list(zip(handles, labels, strict=True)) if has_names else []
    if len(values):
        entries.append((axes.plot(grid, values.mean(axis=0), linewidth=3, color="tab:blue")[0], mean_label))
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], xlim=(0, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    if entries:
        _add_legend(axes, entries)
    else:
        axes.text(0.5, 0.5, "no labels", ha="center", va="center")
    save_figure(figure, file)


def _add_legend(axes: Axes, entries: list[tuple[Any, str]]) -> None:
    handles, labels = zip(*entries, strict=True)
    # matplotlib omits labels with a leading underscore: prepend a thin space
    labels = tuple(f"\u2009{label}" if label.startswith("_") else label for label in labels)
    legend = axes.legend(handles, labels, bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False)
    disable_mathtext(legend.get_texts())


def plot_confusion_matrix(
    matrix: np.ndarray, names: Mapping[int, str], file: Path, *, background: bool = True, normalize: bool = True
) -> None:
    """Plot a confusion matrix.

    Args:
        matrix: counts, rows predicted, columns true: (nc + 1, nc + 1) with background last, or (nc, nc).
        names: class names by number.
        file: .png to write.
        background: whether the matrix includes background.
        normalize: show fractions of each true class instead of counts.
    """
    totals = matrix.sum(axis=0, keepdims=True) if normalize else np.ones((1, len(matrix)))
    values = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    values[values < MIN_FRACTION] = np.nan
    count, largest = len(values), 1.0 if normalize else max(float(matrix.max(initial=0)), 1.0)
    side = float(np.clip(3 + 0.45 * count, 6, 16))
    figure = create_figure(side * 1.15, side)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=largest)
    figure.colorbar(image, shrink=0.8)
    classes = count - background
    if classes <= MAX_CELL_TEXT_CLASSES:
        _draw_numbers(axes, values, largest, "{:.2f}" if normalize else "{:.0f}")
    axes.set(xlabel="True", ylabel="Predicted")
    if classes <= MAX_TICKS:
        size = 10 if count <= 40 else 6
        labels = [names.get(i, str(i)) for i in range(classes)] + ["background"] * background
        axes.set_xticks(range(count), labels, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(count), labels, fontsize=size, parse_math=False)
    save_figure(figure, file)


def _draw_numbers(axes: Axes, values: np.ndarray, largest: float, template: str) -> None:
    """Draw the numbers in the cells, white on dark ones."""
    for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
        value = values[row, column]
        color = "white" if value > 0.45 * largest else "black"
        axes.text(column, row, template.format(value), ha="center", va="center", fontsize=8, color=color)
