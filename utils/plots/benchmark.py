"""Plot of benchmarks.py: speed and accuracy of a network in several formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.plots.figure import class_color, create_figure, disable_mathtext, save_figure


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
