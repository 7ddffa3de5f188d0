"""Data set statistics: sizes of images and objects, objects per image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.plots.figure import class_color, create_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40
MAX_POINTS = 5000  # images in the scatter plot


def plot_sizes(
    sizes_wh: Mapping[str, np.ndarray],
    box_sides: Mapping[str, np.ndarray],
    per_image: Mapping[str, np.ndarray],
    file: Path,
) -> None:
    """Plot image sizes, object sizes and objects per image of all splits.

    Args:
        sizes_wh: image sizes (N, 2) in pixels of each split.
        box_sides: box sizes (M, 2) in pixels of each split; M may be 0.
        per_image: number of objects (N,) per image of each split.
        file: .png or .jpg to write.
    """
    figure = create_figure(15, 4.5, dpi=110)
    image_axes, object_axes, count_axes = (figure.add_subplot(1, 3, k + 1) for k in range(3))
    for number, (split, sizes) in enumerate(sizes_wh.items()):
        points = sizes[np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), MAX_POINTS)).astype(int))]
        image_axes.scatter(points[:, 0], points[:, 1], s=14, alpha=0.5, color=class_color(number), label=split)
    image_axes.set(xlabel="image width, px", ylabel="image height, px")
    image_axes.legend()
    roots = {split: np.sqrt(values.prod(axis=1)) for split, values in box_sides.items()}
    _plot_histogram(object_axes, roots, "square root of object area, px", logarithmic=True)
    _plot_histogram(count_axes, per_image, "objects per image", logarithmic=False)
    save_figure(figure, file)


def _plot_histogram(axes: Axes, values: Mapping[str, np.ndarray], label: str, *, logarithmic: bool) -> None:
    """Plot normalized histograms of all splits as outlines."""
    from matplotlib.ticker import LogLocator, NullFormatter

    all_values = np.concatenate([np.zeros(0), *values.values()])
    if len(all_values):
        low, high = all_values.min(), all_values.max()
        if logarithmic:
            edges = np.geomspace(max(low, 0.5), max(high, 1.0) * 1.01, BINS)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            step = max(1, int(np.ceil((high + 1) / BINS)))
            edges = np.arange(0, high + 1 + step, step) - 0.5
        for number, (split, split_values) in enumerate(values.items()):
            if len(split_values):
                axes.hist(
                    split_values,
                    edges.tolist(),
                    weights=np.full(len(split_values), 1 / len(split_values)),
                    color=class_color(number),
                    label=split,
                    histtype="step",
                    linewidth=2,
                )
        axes.legend()
    axes.set(xlabel=label, ylabel="fraction")
