"""Bar charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.plots.figure import class_color, create_figure, disable_mathtext, save_figure

BAR_HEIGHT = 0.3  # inches


def plot_class_bars(
    values: np.ndarray,
    names: Sequence[str],
    colors_rgb: Sequence[tuple[int, int, int]],
    quantity: str,
    file: Path,
) -> None:
    """Plot a bar for each class, the highest value on top, and a line for the mean.

    Args:
        values: (n,) in [0, 1]; with n = 0 the axes are empty.
        names: class names.
        colors_rgb: bar colors, 0-255.
        quantity: axis label, for example `IoU`.
        file: .png to write.
    """
    order = np.argsort(values, kind="stable")
    figure = create_figure(8, float(np.clip(1.5 + BAR_HEIGHT * len(values), 3, 40)))
    axes = figure.add_subplot()
    colors = [tuple(channel / 255 for channel in colors_rgb[n]) for n in order]
    bars = axes.barh(range(len(values)), values[order], color=colors, edgecolor="0.3")
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks(range(len(values)), [names[n] for n in order], parse_math=False)
    axes.set(xlim=(0, 1.08), xlabel=quantity)
    if len(values):
        mean = float(values.mean())
        axes.axvline(mean, color="0.2", linestyle="--", linewidth=1)
        axes.set_title(f"mean {mean:.3f}", fontsize=10)
    save_figure(figure, file)


def plot_benchmark(rows: Sequence[tuple[str, float | None, float | None]], file: Path) -> None:
    """Plot a bar per format with the time of its forward pass; no plot without rows.

    Args:
        rows: title, milliseconds per image, mAP50-95 or None; the first row is on top.
        file: .png to write.
    """
    if not rows:
        return
    figure = create_figure(8, 1.2 + 0.4 * len(rows))
    axes = figure.add_subplot()
    times = [ms or 0.0 for _, ms, _ in rows]
    bars = axes.barh(range(len(rows)), times, color=[class_color(i) for i in range(len(rows))])
    labels = [
        f" {ms:.1f} ms" + ("" if score is None else f", mAP {score:.3f}")
        for (_, _, score), ms in zip(rows, times, strict=True)
    ]
    disable_mathtext(axes.bar_label(bars, labels=labels, fontsize=8))
    axes.set_yticks(range(len(rows)), [title for title, *_ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(times) or 1.0)
    axes.set_xlabel("ms per image, network only")
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, file)
