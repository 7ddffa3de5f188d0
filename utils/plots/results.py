"""Numbers over epochs and over image sizes: results.png and study.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from utils.core.errors import InputError
from utils.core.results_csv import read_results
from utils.plots.figure import class_color, new_figure, save_figure

STUDY_SIZES = range(256, 1537, 128)  # pixels, `val.py --task study`
# by the number of columns of its tables: where mAP50-95 of detectors, segmenters and joint networks is, mIoU of others
LAST_METRIC = {10: 3, 15: 7, 13: 3, 6: 0}


def plot_results(csv: str | Path, file: Path | None = None) -> Path:
    """Draw every loss and metric of a results.csv over the epochs, with a smoothed line.

    Args:
        csv: the file of a run.
        file: image to write; `results.png` beside the table by default.

    Returns:
        The image's path.

    Raises:
        InputError: the file is missing or is no results.csv.
    """
    file = file or Path(csv).with_name("results.png")
    results = read_results(csv)
    epochs = results.pop("epoch", np.zeros(0))
    rows = _panels(list(results))
    columns = max(1, *(len(row) for row in rows))
    figure = new_figure(2.6 * columns + 0.6, 2.8 * len(rows), fitted=False)  # the panels are alike, and it is quicker
    left = 0.65 / figure.get_figwidth()  # room for six figures
    figure.subplots_adjust(left=left, right=0.99, bottom=0.06, top=0.95, wspace=0.3, hspace=0.22)
    for index, row in enumerate(rows):
        for column, name in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, index * columns + column + 1)
            _plot_column(axes, name, epochs, results[name])
    save_figure(figure, file)
    return file


def _panels(names: Sequence[str]) -> list[list[str]]:
    """Two rows of column names: training losses above validation losses, the metrics in two halves beside them."""
    groups = {kind: [name for name in names if name.startswith(f"{kind}/")] for kind in ("train", "val", "metrics")}
    metrics = groups["metrics"] + [n for n in names if n.split("/")[0] not in ("train", "val", "metrics", "x", "lr")]
    half = (len(metrics) + 1) // 2
    return [groups["train"] + metrics[:half], groups["val"] + metrics[half:]]


def _plot_column(axes: Axes, name: str, epochs: np.ndarray, values: np.ndarray) -> None:
    known = np.isfinite(values)
    axes.set_title(name, fontsize=10)
    if not known.any():  # with --noval until the end: drawing ticks is what takes the time
        axes.set_axis_off()
        return
    axes.plot(epochs[known], values[known], marker="." if known.sum() < 50 else "", linewidth=1.5)
    if known.sum() > 4:
        axes.plot(epochs[known], _smooth(values[known]), ":", color="tab:orange", linewidth=2)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Weighted mean over neighboring epochs, a Gaussian of an eighth of a decade at least one epoch wide."""
    sigma = max(1.0, len(values) / 60)
    reach = min(int(3 * sigma) + 1, len(values) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), weights / weights.sum(), mode="valid")


def plot_study(files: Sequence[str | Path], file: Path, *, sizes: Sequence[int] = STUDY_SIZES) -> None:
    """Draw mAP against time per image of several models, one point for each input size.

    Args:
        files: tables of `val.py --task study`, one a model: a row per size with the four metrics P, R, mAP50 and
            mAP50-95, three losses, and milliseconds of preparing, network and NMS per image; of a segmenter the
            metrics of boxes and of masks, of which the last is drawn, and four losses; of a joint network those of
            boxes, mIoU, pixel accuracy and four losses; without boxes mIoU, which is drawn, pixel accuracy and a loss.
        file: .png to write.
        sizes: input sizes of the rows, in pixels.

    Raises:
        InputError: a file cannot be read or its rows have another number of columns.
    """
    figure = new_figure(8, 5.5)
    axes, width = figure.add_subplot(), 0
    for index, name in enumerate(files):
        table = _read_study(Path(name))
        width = table.shape[1]
        times, scores = table[:, -3:].sum(axis=1), 100 * table[:, LAST_METRIC[width]]
        axes.plot(times, scores, marker="o", color=class_color(index), label=Path(name).stem.removeprefix("study_"))
        for x, y, size in zip(times, scores, sizes, strict=False):
            axes.annotate(str(size), (x, y), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7)
    drawn = "mIoU" if width == min(LAST_METRIC) else "mAP 0.5:0.95"
    axes.set(xlabel="ms per image (preparing, network, NMS)", ylabel=f"{drawn}, %")
    axes.grid(alpha=0.3)
    if files:
        axes.legend(loc="lower right")
    save_figure(figure, file)


def _read_study(file: Path) -> np.ndarray:
    """(rows, columns) numbers of one table."""
    try:
        table = np.loadtxt(file, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}; give a table that val.py --task study wrote") from error
    if table.shape[1] not in LAST_METRIC:
        expected = " or ".join(map(str, LAST_METRIC))
        raise InputError(
            f"{file}: {table.shape[1]} columns, not {expected}; give a table that val.py --task study wrote"
        )
    return table
