"""Plots of results.csv over epochs and of `val.py --task study` over image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.core.errors import InputError
from utils.core.results_csv import read_results
from utils.plots.figure import class_color, create_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STUDY_SIZES = range(256, 1537, 128)  # pixels, `val.py --task study`
# columns of a study table -> column of its metric: mAP50-95 of detection, segmentation and joint, mIoU of semantic
METRIC_COLUMN = {10: 3, 15: 7, 13: 3, 6: 0}


def plot_results(csv: str | Path, file: Path | None = None, *, marked_row: int | None = None) -> Path:
    """Plot every loss and metric of a results.csv over the epochs, with a smoothed line.

    Args:
        csv: results.csv of a run.
        file: image to write; by default `results.png` in the same folder.
        marked_row: row of the file whose values are marked with a star and written in the titles.

    Returns:
        Path of the image.

    Raises:
        InputError: the file is missing or not a results.csv.
    """
    file = file or Path(csv).with_name("results.png")
    results = read_results(csv)
    epochs = results.pop("epoch", np.zeros(0))
    rows = _arrange_panels(list(results))
    columns = max(1, *(len(row) for row in rows))
    figure = create_figure(2.6 * columns + 0.6, 2.8 * len(rows), constrained=False)  # faster
    left = 0.65 / figure.get_figwidth()  # room for six digits
    figure.subplots_adjust(left=left, right=0.99, bottom=0.06, top=0.95, wspace=0.3, hspace=0.22)
    for index, row in enumerate(rows):
        for column, name in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, index * columns + column + 1)
            _plot_column(axes, name, epochs, results[name])
            if marked_row is not None and np.isfinite(value := results[name][marked_row]):
                axes.plot(epochs[marked_row], value, "*", color="tab:red", markersize=12)
                axes.set_title(f"{name} {value:.4g}", fontsize=10)
    save_figure(figure, file)
    return file


def _arrange_panels(names: Sequence[str]) -> list[list[str]]:
    """Two rows of column names: training losses, validation losses, and half of the metrics in each."""
    groups = {kind: [name for name in names if name.startswith(f"{kind}/")] for kind in ("train", "val", "metrics")}
    metrics = groups["metrics"] + [n for n in names if n.split("/")[0] not in ("train", "val", "metrics", "x", "lr")]
    half = (len(metrics) + 1) // 2
    return [groups["train"] + metrics[:half], groups["val"] + metrics[half:]]


def _plot_column(axes: Axes, name: str, epochs: np.ndarray, values: np.ndarray) -> None:
    is_finite = np.isfinite(values)
    axes.set_title(name, fontsize=10)
    if not is_finite.any():  # with --noval; drawing ticks is slow
        axes.set_axis_off()
        return
    axes.plot(epochs[is_finite], values[is_finite], marker="." if is_finite.sum() < 50 else "", linewidth=1.5)
    if is_finite.sum() > 4:
        axes.plot(epochs[is_finite], _smooth(values[is_finite]), ":", color="tab:orange", linewidth=2)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Smooth with a Gaussian of 1/60 of the epochs, at least one epoch."""
    sigma = max(1.0, len(values) / 60)
    radius = min(int(3 * sigma) + 1, len(values) - 1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, radius, mode="edge"), weights / weights.sum(), mode="valid")


def plot_study(files: Sequence[str | Path], file: Path, *, sizes: Sequence[int] = STUDY_SIZES) -> None:
    """Plot mAP or mIoU over the time per image of several models, one point per input size.

    Args:
        files: tables of `val.py --task study`, one per model, with a row per size: metrics, losses, and milliseconds
            of pre-processing, network and NMS per image. The plot shows mAP50-95 (of masks for segmentation) or mIoU.
        file: .png to write.
        sizes: input sizes of the rows, in pixels.

    Raises:
        InputError: a file cannot be read or has another number of columns.
    """
    figure = create_figure(8, 5.5)
    axes, num_columns = figure.add_subplot(), 0
    for index, name in enumerate(files):
        table = _read_study(Path(name))
        num_columns = table.shape[1]
        times, scores = table[:, -3:].sum(axis=1), 100 * table[:, METRIC_COLUMN[num_columns]]
        axes.plot(times, scores, marker="o", color=class_color(index), label=Path(name).stem.removeprefix("study_"))
        for x, y, size in zip(times, scores, sizes, strict=False):
            axes.annotate(str(size), (x, y), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7)
    metric = "mIoU" if num_columns == min(METRIC_COLUMN) else "mAP 0.5:0.95"
    axes.set(xlabel="ms per image (pre-process, inference, NMS)", ylabel=f"{metric}, %")
    axes.grid(alpha=0.3)
    if files:
        axes.legend(loc="lower right")
    save_figure(figure, file)


def _read_study(file: Path) -> np.ndarray:
    try:
        table = np.loadtxt(file, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}; pass a table written by val.py --task study") from error
    if table.shape[1] not in METRIC_COLUMN:
        expected = " or ".join(map(str, METRIC_COLUMN))
        raise InputError(
            f"{file}: {table.shape[1]} columns, expected {expected}; pass a table written by val.py --task study"
        )
    return table
