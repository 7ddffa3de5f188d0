"""Label plots: classes, positions and sizes of boxes, anchors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from utils.plots.figure import class_color, create_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_OUTLINES = 1000  # boxes drawn as outlines, evenly sampled
MAX_TICKS = 30  # with more classes, bars have no names
MAX_POINTS = 20000  # boxes drawn as points
BINS = 50


def plot_labels(classes: ArrayLike, boxes_xywhn: ArrayLike, names: Mapping[int, str], save_dir: Path) -> None:
    """Plot `labels.jpg` (classes, outlines, centers, sizes) and `labels_correlogram.jpg` (pairs of x, y, w, h).

    Args:
        classes: (M,) class of each box of a split; M may be 0.
        boxes_xywhn: (M, 4) normalized.
        names: class names by number.
        save_dir: output folder.
    """
    classes, boxes = np.asarray(classes, int).ravel(), np.asarray(boxes_xywhn, float).reshape(-1, 4)
    figure = create_figure(10, 10, dpi=120)
    panels = [figure.add_subplot(2, 2, i + 1) for i in range(4)]
    _plot_counts(panels[0], classes, names)
    _plot_outlines(panels[1], classes, boxes)
    _plot_density(panels[2], boxes[:, 0], boxes[:, 1], ("x", "y"))
    panels[2].invert_yaxis()  # as in the image
    _plot_density(panels[3], boxes[:, 2], boxes[:, 3], ("width", "height"))
    save_figure(figure, save_dir / "labels.jpg")
    _plot_correlogram(boxes, save_dir / "labels_correlogram.jpg")


def _plot_counts(axes: Axes, classes: np.ndarray, names: Mapping[int, str]) -> None:
    """Plot a bar for each class, including classes without boxes."""
    count = max([*names, *classes.tolist(), 0]) + 1
    counts = np.bincount(classes, minlength=count)
    bars = axes.bar(range(count), counts, color=[class_color(i) for i in range(count)])
    axes.set_ylabel("boxes")
    if count <= MAX_TICKS:
        axes.bar_label(bars, fontsize=8)
        axes.set_xticks(range(count), [names.get(i, str(i)) for i in range(count)], rotation=90, parse_math=False)
    else:
        axes.set_xlabel("class")


def _plot_outlines(axes: Axes, classes: np.ndarray, boxes: np.ndarray) -> None:
    """Plot outlines of boxes with a common center."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    rows = np.unique(np.linspace(0, len(boxes) - 1, min(len(boxes), MAX_OUTLINES)).astype(int))
    outlines = [Rectangle((0.5 - w / 2, 0.5 - h / 2), w, h) for w, h in boxes[rows, 2:]]
    colors = [class_color(int(c)) for c in classes[rows]]
    axes.add_collection(PatchCollection(outlines, facecolor="none", edgecolor=colors, linewidth=0.5, alpha=0.6))
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal", title="sizes, centered")


def _plot_density(axes: Axes, x: np.ndarray, y: np.ndarray, axis_names: tuple[str, str]) -> None:
    axes.hist2d(x, y, bins=BINS, range=((0, 1), (0, 1)), cmap="Blues")
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], aspect="equal")


def _plot_correlogram(boxes: np.ndarray, file: Path) -> None:
    """Plot the lower triangle of a 4 x 4 grid: histograms on the diagonal, 2D histograms of pairs below it."""
    names = ("x", "y", "width", "height")
    figure = create_figure(9, 9, dpi=120)
    for row in range(4):
        for column in range(row + 1):
            axes = figure.add_subplot(4, 4, 4 * row + column + 1)
            if row == column:
                axes.hist(boxes[:, row], bins=BINS, range=(0, 1), color="tab:blue")
                axes.set_yticks([])
            else:
                axes.hist2d(boxes[:, column], boxes[:, row], bins=BINS, range=((0, 1), (0, 1)), cmap="Blues")
            axes.tick_params(labelsize=7)
            axes.set(xlim=(0, 1), xlabel=names[column] if row == 3 else "", ylabel=names[row] if column == 0 else "")
    save_figure(figure, file)


def plot_anchors(boxes_wh: ArrayLike, anchors: ArrayLike, file: Path) -> None:
    """Plot the sizes of boxes and anchors on logarithmic axes.

    Args:
        boxes_wh: (M, 2) in pixels of the network input.
        anchors: (levels, anchors, 2) or (anchors, 2) in pixels, a tensor or an array.
        file: .png or .jpg to write.
    """
    boxes, levels = np.asarray(boxes_wh, float).reshape(-1, 2), np.asarray(anchors, float)
    levels = levels.reshape(1, -1, 2) if levels.ndim == 2 else levels
    step = len(boxes) // MAX_POINTS + 1
    figure = create_figure(8, 8, dpi=120)
    axes = figure.add_subplot()
    axes.scatter(boxes[::step, 0], boxes[::step, 1], s=4, color="0.6", alpha=0.4, linewidths=0, label="boxes")
    for index, level in enumerate(levels):
        axes.scatter(
            level[:, 0],
            level[:, 1],
            marker="X",
            s=110,
            color=class_color(index),
            edgecolors="black",
            label=f"level {index}",
        )
    axes.set(xscale="log", yscale="log", xlabel="width, pixels", ylabel="height, pixels", aspect="equal")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    save_figure(figure, file)
