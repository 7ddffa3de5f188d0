"""What a data set is like: sizes of images and objects, and how many objects an image has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from utils.plots.figure import class_color, new_figure, save_figure

BINS = 40
MAX_SIZES = 5000  # images drawn as points


def plot_sizes(
    sizes_wh: Mapping[str, np.ndarray],
    box_sides: Mapping[str, np.ndarray],
    per_image: Mapping[str, np.ndarray],
    file: Path,
) -> None:
    """Draw three panels, each with all splits.

    Args:
        sizes_wh: (N, 2) pixels of the images of each split.
        box_sides: (M, 2) pixels of the boxes of each split; M may be 0.
        per_image: (N,) objects of each image of each split.
        file: .png or .jpg to write.
    """
    figure = new_figure(15, 4.5, dpi=110)
    places, sides, counts = (figure.add_subplot(1, 3, k + 1) for k in range(3))
    for number, (split, sizes) in enumerate(sizes_wh.items()):
        chosen = sizes[np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), MAX_SIZES)).astype(int))]
        places.scatter(chosen[:, 0], chosen[:, 1], s=14, alpha=0.5, color=class_color(number), label=split)
    places.set(xlabel="width of images, px", ylabel="height, px")
    places.legend()
    roots = {split: np.sqrt(values.prod(axis=1)) for split, values in box_sides.items()}
    _histogram(sides, roots, "square root of the area of objects, px", logarithmic=True)
    _histogram(counts, per_image, "objects in an image", logarithmic=False)
    save_figure(figure, file)


def _histogram(axes: Axes, values: Mapping[str, np.ndarray], label: str, *, logarithmic: bool) -> None:
    """Shares of the values of each split, as outlines over another."""
    everything = np.concatenate([np.zeros(0), *values.values()])
    if len(everything):
        low, high = everything.min(), everything.max()
        if logarithmic:
            edges = np.geomspace(max(low, 0.5), max(high, 1.0) * 1.01, BINS)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            step = max(1, int(np.ceil((high + 1) / BINS)))
            edges = np.arange(0, high + 1 + step, step) - 0.5
        for number, (split, found) in enumerate(values.items()):
            if len(found):
                weights, color = np.full(len(found), 1 / len(found)), class_color(number)
                axes.hist(
                    found, edges.tolist(), weights=weights, color=color, label=split, histtype="step", linewidth=2
                )
        axes.legend()
    axes.set(xlabel=label, ylabel="share")
