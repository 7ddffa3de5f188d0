"""Curves and confusion matrix of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from utils.plots.figure import class_color, new_figure, plain_texts, save_figure

if TYPE_CHECKING:
    from utils.metrics.ap import APResult

MAX_NAMED = 20  # classes listed beside curves; more are thin gray lines
MAX_NUMBERED = 30  # classes up to which the confusion matrix has numbers in its cells
MAX_TICKS = 100  # classes up to which it has names at its sides
SMALLEST_SHOWN = 0.005  # share of a column


def plot_curves(result: APResult, names: Mapping[int, str], save_dir: Path, *, prefix: str = "") -> None:
    """Draw `PR_curve.png`, `P_curve.png`, `R_curve.png` and `F1_curve.png`, at IoU 0.5.

    Args:
        result: k classes with labels; none gives empty axes.
        names: class names by number.
        save_dir: where the four files go.
        prefix: before the names of the files, `Box` for instance.
    """
    curves = result.curves
    labels = [names.get(int(c), str(c)) for c in result.classes]
    over_recall = [f"{label} {ap:.3f}" for label, ap in zip(labels, result.ap50, strict=True)]
    mean = f"all classes: mAP 0.5 {result.ap50.mean():.3f}" if len(labels) else ""
    pr = curves.precision_over_recall
    _plot(save_dir / f"{prefix}PR_curve.png", curves.grid, pr, over_recall, mean, ("Recall", "Precision"), result)
    for letters, title, values in (
        ("P", "Precision", curves.p),
        ("R", "Recall", curves.r),
        ("F1", "F1", curves.f1),
    ):
        mean = _best(title, curves.grid, values)
        _plot(
            save_dir / f"{prefix}{letters}_curve.png", curves.grid, values, labels, mean, ("Confidence", title), result
        )


def _best(title: str, grid: np.ndarray, values: np.ndarray) -> str:
    """Caption of the mean curve: its highest value and where that is."""
    if not len(values):
        return ""
    mean = values.mean(axis=0)
    return f"all classes: {title} {mean.max():.2f} at {grid[mean.argmax()]:.3f}"


def _plot(
    file: Path,
    grid: np.ndarray,
    values: np.ndarray,
    labels: list[str],
    mean_label: str,
    axis_names: tuple[str, str],
    result: APResult,
) -> None:
    """One figure: a line for each class (k, 1000) and a thick one for their mean."""
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    named = len(labels) <= MAX_NAMED
    handles = [
        axes.plot(grid, row, linewidth=1 if named else 0.5, color=class_color(int(c)) if named else "0.75")[0]
        for row, c in zip(values, result.classes, strict=True)
    ]
    shown = list(zip(handles, labels, strict=True)) if named else []
    if len(values):
        shown.append((axes.plot(grid, values.mean(axis=0), linewidth=3, color="tab:blue")[0], mean_label))
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], xlim=(0, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    if shown:
        _legend(axes, shown)
    else:
        axes.text(0.5, 0.5, "no labels", ha="center", va="center")
    save_figure(figure, file)


def _legend(axes: Axes, shown: list[tuple[Any, str]]) -> None:
    """Names to the right of the axes; matplotlib leaves out labels with a leading underscore, hence the thin space."""
    handles, labels = zip(*shown, strict=True)
    labels = tuple(f"\u2009{label}" if label.startswith("_") else label for label in labels)
    plain_texts(axes.legend(handles, labels, bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False).get_texts())


def plot_confusion_matrix(matrix: np.ndarray, names: Mapping[int, str], file: Path, *, background: bool = True) -> None:
    """Draw which share of each true class was taken for what.

    Args:
        matrix: counts, rows predicted, columns true: (nc + 1, nc + 1), the last of each background; or (nc, nc).
        names: class names by number.
        file: .png to write; cells under half a percent of their column stay empty.
        background: whether the matrix has it.
    """
    totals = matrix.sum(axis=0, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    shares[shares < SMALLEST_SHOWN] = np.nan
    count = len(shares)
    side = float(np.clip(3 + 0.45 * count, 6, 16))
    figure = new_figure(side * 1.15, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, shrink=0.8)
    classes = count - background
    if classes <= MAX_NUMBERED:
        _write_shares(axes, shares)
    axes.set(xlabel="True", ylabel="Predicted")
    if classes <= MAX_TICKS:
        size = 10 if count <= 40 else 6
        labels = [names.get(i, str(i)) for i in range(classes)] + ["background"] * background
        axes.set_xticks(range(count), labels, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(count), labels, fontsize=size, parse_math=False)
    save_figure(figure, file)


def _write_shares(axes: Axes, shares: np.ndarray) -> None:
    """The number in every cell that has one, white on dark."""
    for row, column in zip(*np.nonzero(~np.isnan(shares)), strict=True):
        share = shares[row, column]
        color = "white" if share > 0.45 else "black"
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=color)
