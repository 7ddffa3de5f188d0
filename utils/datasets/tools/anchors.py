"""Anchor search for a data set: `python -m utils.anchors`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from utils.ops.autoanchor import AnchorFit


def build_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser(prog="python -m utils.anchors", description="Search anchors for a data set.")
    parser.add_argument("--data", default="data/coco128.yaml", help="data YAML")
    parser.add_argument("--split", default="train", help="split to fit the anchors to")
    parser.add_argument("--imgsz", "--img", "--img-size", type=int, default=640, help="image size in pixels")
    parser.add_argument("--n", type=int, default=9, help="number of anchors, a multiple of --levels")
    parser.add_argument("--levels", type=int, default=3, help="detection levels of the model")
    parser.add_argument("--gen", type=int, default=1000, help="generations of the genetic search")
    parser.add_argument("--thr", type=float, default=4.0, help="maximum side ratio between a box and its anchor")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--plot", type=Path, default=Path("anchors.png"), help="plot to write; '' for none")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print anchors for a model YAML and how well they fit; plot them over the boxes."""
    args = build_parser().parse_args(argv)
    for name, minimum in (("imgsz", 32), ("n", 1), ("levels", 1), ("gen", 0)):
        if (value := getattr(args, name)) < minimum:
            raise InputError(f"--{name} {value}: must be {minimum} or more")
    if args.n % args.levels:
        raise InputError(f"--n {args.n}: must be a multiple of --levels {args.levels}")
    if args.thr <= 1:
        raise InputError(f"--thr {args.thr:g}: must be above 1")
    import numpy as np  # slow to import, so only after the flags are checked

    from utils.datasets.index.data_yaml import load_spec
    from utils.datasets.index.labels import load_index
    from utils.ops.autoanchor import compute_anchor_fit, compute_box_sizes, search_anchors

    index = load_index(load_spec(args.data), args.split)
    if not index.num_objects:
        raise InputError(f"{args.data}: the split {args.split!r} has no boxes to fit anchors to")
    boxes = compute_box_sizes(index.sizes_hw, index.offsets, index.boxes_xywhn, args.imgsz)
    anchors = search_anchors(
        boxes, args.n, threshold=args.thr, generations=args.gen, rng=np.random.default_rng(args.seed)
    )
    print(format_report(anchors, compute_anchor_fit(anchors, boxes, args.thr), args.levels, len(boxes), args.imgsz))
    if args.plot.name:
        draw_anchors(anchors, boxes, args.plot)
        print(f"Plot saved to {args.plot}")


def format_report(anchors_wh: np.ndarray, fit: AnchorFit, levels: int, num_boxes: int, imgsz: int) -> str:
    """Quality of the fit, followed by the `anchors:` block of a model YAML."""
    lines = [
        f"{len(anchors_wh)} anchors for {num_boxes} boxes at {imgsz} px: best possible recall {fit.recall:.4f}, "
        f"{fit.per_box:.2f} anchors per box, mean best ratio {fit.mean_best:.3f}",
        "anchors:",
    ]
    per_level = len(anchors_wh) // levels
    for row in anchors_wh.reshape(levels, per_level, 2):
        lines.append("  - [" + ", ".join(f"{w:.0f},{h:.0f}" for w, h in row) + "]")
    return "\n".join(lines)


def draw_anchors(anchors_wh: np.ndarray, boxes_wh: np.ndarray, file: Path) -> None:
    """Scatter plot of box sizes and anchors in pixels, logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.scatter(boxes_wh[:, 0], boxes_wh[:, 1], s=4, alpha=0.3, linewidths=0, label=f"{len(boxes_wh)} boxes")
    axes.scatter(
        anchors_wh[:, 0], anchors_wh[:, 1], s=60, marker="+", color="tab:red", label=f"{len(anchors_wh)} anchors"
    )
    axes.set(xscale="log", yscale="log", xlabel="width, px", ylabel="height, px", aspect="equal")
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
