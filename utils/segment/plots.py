"""Public address of instance segmentation plots, with their known signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from utils.core.errors import InputError
from utils.core.results_csv import read_results
from utils.metrics.arrays import to_numpy
from utils.ops.boxes import xywh_to_xyxy
from utils.ops.masks import ObjectMasks
from utils.plots.batches import MIN_SCORE, plot_batch
from utils.plots.results import plot_results
from utils.segment.metrics import KEYS, fitness

METRIC_COLUMNS = [name for name in KEYS if name.startswith("metrics/")]


def plot_images_and_masks(
    images: Tensor | np.ndarray, targets: Tensor | np.ndarray, masks: Tensor | np.ndarray | Sequence[Tensor],
    paths: Sequence[str] | None = None, fname: str | Path = "images.jpg",
    names: Mapping[int, str] | Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Plot the first images of a batch as a grid, with boxes and masks.

    Args:
        images: (B, C, H, W), uint8 or float in [0, 1].
        targets: labels (N, 6) image index, class, x, y, w, h normalized; or predictions (N, 7) with x, y, w, h in
            pixels and a score, of which those below 0.25 are not drawn.
        masks: (N, h, w), one per row of `targets`, an empty list without any; or index maps (B, h, w), object i of an
            image has the value i + 1.
        paths: B file names.
        fname: image to write.
        names: class names.

    Raises:
        ValueError: as many masks as neither targets nor images.
    """
    rows, planes = to_numpy(targets), to_numpy(masks)
    rows = rows if rows.size else np.zeros((0, 6))
    planes = planes if planes.size else np.zeros((0, 1, 1))
    if len(planes) not in (len(rows), len(images)):
        raise ValueError(f"plot_images_and_masks: {len(planes)} masks for {len(rows)} targets of {len(images)} images")
    has_index_maps = len(planes) != len(rows) or planes.max(initial=0) > 1

    def get_masks(number: int) -> ObjectMasks:
        selected = np.flatnonzero(rows[:, 0] == number)
        if has_index_maps:
            values = np.arange(1, len(selected) + 1)[:, None, None]
            image_masks = planes[number] == values
        else:
            image_masks = planes[selected] > 0.5
        return ObjectMasks.from_dense(image_masks[_is_drawn(rows[selected])])

    titles = [str(number) for number in range(len(images))] if paths is None else [str(path) for path in paths]
    classes = dict(names.items() if isinstance(names, Mapping) else enumerate(names or ()))
    boxes = rows if rows.shape[1] == 6 else _split_predictions(rows, len(images))
    plot_batch(images, boxes, titles, classes, Path(fname), masks=get_masks)


def plot_results_with_masks(file: str | Path = "path/to/results.csv", dir: str | Path = "", best: bool = True) -> None:
    """Plot the results of a segmentation run over the epochs, as `results.png` beside each `results*.csv`.

    Args:
        file: results.csv of a run, in whose folder others are looked for; or "" for `dir`.
        dir: the folder.
        best: mark the epoch of the highest fitness instead of the last one.

    Raises:
        InputError: there is no such file, or it lacks the metrics of masks.
    """
    folder = Path(file).parent if file else Path(dir)
    files = sorted(folder.glob("results*.csv"))
    if not files:
        raise InputError(f"{folder}: no results.csv; give the folder of a run of segment/train.py")
    for csv in files:
        results = read_results(csv)
        if missing := [name for name in METRIC_COLUMNS if name not in results]:
            raise InputError(f"{csv}: no column {missing[0]}; use the results.csv of segment/train.py")
        values = fitness(np.stack([results[name] for name in METRIC_COLUMNS], axis=1))
        row = int(np.nan_to_num(values, nan=-1).argmax()) if best else len(values) - 1
        plot_results(csv, csv.with_suffix(".png"), marked_row=row)


def _is_drawn(rows: np.ndarray) -> np.ndarray:
    """Mask (n,) of the labels, or of the predictions with a sufficient score."""
    return np.ones(len(rows), bool) if rows.shape[1] == 6 else rows[:, 6] >= MIN_SCORE


def _split_predictions(rows: np.ndarray, count: int) -> list[np.ndarray]:
    """Predictions (N, 7) as rows x1, y1, x2, y2, score, class of each of `count` images."""
    boxes = np.concatenate((xywh_to_xyxy(rows[:, 2:6]), rows[:, 6:7], rows[:, 1:2]), axis=1)
    return [boxes[rows[:, 0] == number] for number in range(count)]
