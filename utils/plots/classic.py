"""Plots under the names and with the arguments that other programs import from `utils.plots`."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import get_data_path
from PIL import ImageFont
from torch import Tensor

from utils.core.errors import InputError
from utils.core.files import expand_user
from utils.core.logging import LOGGER
from utils.core.packages import import_runtime
from utils.core.ranks import RANK  # noqa: F401 (a public name)
from utils.core.renamed import accept_renamed
from utils.core.results_csv import read_table
from utils.core.yaml_files import read_yaml
from utils.metrics.detection import MAP50_WEIGHT, MAP_WEIGHT
from utils.ops.boxes import xywh_to_xyxy, xyxy_to_xywh
from utils.ops.network_input import IMAGENET
from utils.plots import labels as label_plots
from utils.plots import results as result_plots
from utils.plots.annotator import Annotator, colors
from utils.plots.batches import MAX_IMAGES, plot_batch, plot_captions
from utils.plots.features import save_feature_maps
from utils.plots.figure import create_figure, save_figure
from utils.search.evolve_csv import FITNESS, NUMBER, Generation
from utils.search.genes import GENES
from utils.search.plot import plot_evolution as draw_evolution

Names = Mapping[int, str] | Sequence[str] | None
NUM_RESULTS = 7  # columns of results before the hyperparameters, in files of an evolution
BINS_2D, BINS_1D, MAX_COUNT = 600, 100, 10  # the highest color of a two-dimensional histogram is that of MAX_COUNT
MAX_NORMALIZED = 1.01  # boxes with a larger value are in pixels
STUDY_FILES = "study*.txt"


def _to_dict(names: Names) -> dict[int, str]:
    return {} if names is None else dict(names.items() if isinstance(names, Mapping) else enumerate(names))


def _to_array(values: Any) -> np.ndarray:
    return values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


# -- fonts, boxes on an image -----------------------------------------------------------------------------------------


def check_pil_font(font: str | Path = "Arial.ttf", size: int = 10) -> ImageFont.FreeTypeFont:
    """The Pillow font of a file or name, if it is installed, or else DejaVu Sans; none is downloaded."""
    try:
        return ImageFont.truetype(str(expand_user(font)), size)
    except OSError:
        return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


check_font = check_pil_font  # name in 6.0


def color_list() -> list[tuple[int, int, int]]:
    """The RGB colors of the first ten classes (5.0)."""
    return colors.palette[:10]


def plot_one_box(
    x: Any,
    img: np.ndarray,
    color: Sequence[int] | None = None,
    label: str | None = None,
    line_thickness: int | None = 3,
) -> None:
    """Draw a box (x1, y1, x2, y2) with its label on an image, in place (5.0); in a random color by default."""
    shade = [random.randint(0, 255) for _ in range(3)] if color is None else color
    annotator = Annotator(img, line_width=line_thickness)
    annotator.box_label(x, label or "", color=shade)
    if annotator.im is not img:
        img[...] = annotator.im


def plot_one_box_PIL(  # noqa: N802 (a public name)
    box: Any,
    img: np.ndarray,
    color: Sequence[int] | None = None,
    label: str | None = None,
    line_thickness: int | None = None,
) -> np.ndarray:
    """As `plot_one_box`, on a copy, which is returned (5.0)."""
    drawn = np.array(img)
    plot_one_box(box, drawn, color, label, line_thickness)
    return drawn


# -- batches ----------------------------------------------------------------------------------------------------------


def output_to_target(output: Sequence[Any], max_det: int = 300) -> np.ndarray:
    """Rows (m, 7) of image index, class, x, y, w, h, score of the detections of a batch.

    Args:
        output: per image (n, 6+) x1, y1, x2, y2, score, class.
        max_det: rows per image.
    """
    parts = [np.zeros((0, 7), np.float32)]
    for index, detections in enumerate(output):
        rows = _to_array(detections)[:max_det].astype(np.float32).reshape(-1, np.shape(detections)[-1])
        parts.append(np.column_stack([np.full(len(rows), index), rows[:, 5], xyxy_to_xywh(rows[:, :4]), rows[:, 4]]))
    return np.concatenate(parts).astype(np.float32)


def plot_images(
    images: Any,
    targets: Any,
    paths: Sequence[str | Path] | None = None,
    fname: str | Path = "images.jpg",
    names: Names = None,
    max_size: int = 1920,
    max_subplots: int = 16,
) -> None:
    """Plot a grid of the images of a batch with their boxes, see `utils.plots.batches.plot_batch`.

    Args:
        images: (B, 3, H, W) RGB, uint8 or float in [0, 1] or [0, 255].
        targets: rows of image index, class, x, y, w, h, normalized or in pixels, and for predictions the score;
            predictions below 0.25 are not drawn.
        paths: B file names.
        fname: file to write.
        names: class names.
        max_size: ignored.
    """
    pixels = _to_array(images)[: min(max_subplots, MAX_IMAGES)]
    if pixels.dtype != np.uint8 and pixels.size and pixels.max() > 1:
        pixels = pixels / 255
    rows = _to_array(targets)
    rows = rows.reshape(-1, rows.shape[-1] if rows.ndim == 2 and rows.shape[-1] else 6).astype(np.float32)
    sides = np.array([pixels.shape[3], pixels.shape[2]] * 2, np.float32)
    is_normalized = not len(rows) or rows[:, 2:6].max() <= MAX_NORMALIZED
    boxes = rows[:, 2:6] if is_normalized else rows[:, 2:6] / sides
    content: Any = np.column_stack([rows[:, :2], boxes])
    if rows.shape[1] > 6:
        detections = np.column_stack([xywh_to_xyxy(boxes) * sides, rows[:, 6], rows[:, 1]])
        content = [detections[rows[:, 0] == index] for index in range(len(pixels))]
    titles = [""] * len(pixels) if paths is None else [str(path) for path in paths]
    plot_batch(pixels, content, titles, _to_dict(names), Path(fname))


def imshow_cls(
    im: Tensor,
    labels: Any = None,
    pred: Any = None,
    names: Names = None,
    nmax: int = 25,
    verbose: bool = False,
    f: str | Path = Path("images.jpg"),
) -> Path:
    """Plot a grid of classified images with the names of their classes; wrong predictions are red.

    Args:
        im: (B, 3, H, W) RGB, normalized as for training.
        labels, pred: (B,) classes.
        nmax: images at most.
        verbose: log the names.
        f: file to write, which is returned.
    """
    images = im.detach().float().cpu()[:nmax]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    known = _to_dict(names)

    def list_names(classes: Any) -> list[str]:
        numbers = [] if classes is None else _to_array(classes).astype(int).ravel().tolist()[:nmax]
        return [known.get(number, f"class{number}") for number in numbers]

    truth, predicted = list_names(labels), list_names(pred)
    captions = truth or predicted or [""] * len(images)
    if truth and predicted:
        captions = [f"{label} - {guess}" for label, guess in zip(truth, predicted, strict=True)]
    wrong = [label != guess for label, guess in zip(truth, predicted, strict=False)]
    plot_captions((images * std + mean).clamp(0, 1), captions, Path(f), wrong=wrong)
    if verbose:
        LOGGER.info(f"{f}: {', '.join(captions)}")
    return Path(f)


def feature_visualization(
    x: Any, module_type: str, stage: int, n: int = 32, save_dir: str | Path = Path("runs/detect/exp")
) -> None:
    """Save the feature maps (B, C, H, W) of a layer, see `utils.plots.features.save_feature_maps`; not of a head.

    Args:
        module_type: class of the layer, with or without its module.
        stage: index of the layer.
        n: channels in the image.
    """
    if "Detect" not in module_type:
        save_feature_maps(x, module_type, stage, Path(save_dir), max_maps=n)


# -- training ---------------------------------------------------------------------------------------------------------


def plot_labels(labels: np.ndarray, names: Names = (), save_dir: str | Path = Path(), loggers: object = None) -> None:
    """Plot labels.jpg and labels_correlogram.jpg of labels (n, 5) class, x, y, w, h; `loggers` is ignored."""
    rows = np.asarray(labels, np.float64).reshape(-1, 5)
    label_plots.plot_labels(rows[:, 0], rows[:, 1:], _to_dict(names), Path(save_dir))


@accept_renamed(save_dir="dir")
def plot_results(file: str | Path = "path/to/results.csv", dir: str | Path = "") -> None:
    """Plot results.png beside a results.csv, or beside each `results*.csv` of a folder.

    Args:
        dir: the folder, used if it is given.

    Raises:
        InputError: there is no such file.
    """
    files = sorted(Path(dir).glob("results*.csv")) if str(dir) else [Path(file)]
    if not files:
        raise InputError(f"{dir}: no results*.csv in this folder; give that of a training run")
    for csv in files:
        result_plots.plot_results(csv, csv.with_suffix(".png"))


def plot_lr_scheduler(optimizer: Any, scheduler: Any, epochs: int = 300, save_dir: str | Path = "") -> None:
    """Plot LR.png: the learning rate of the first parameter group over the epochs; both arguments are copied."""
    optimizer, scheduler = copy.deepcopy((optimizer, scheduler))
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the order of the steps of optimizer and scheduler
        for _ in range(epochs):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    figure = create_figure(6, 4)
    axes = figure.add_subplot()
    axes.plot(rates, ".-")
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, max(epochs, 1)), ylim=(0, None))
    axes.grid(alpha=0.3)
    save_figure(figure, Path(save_dir) / "LR.png")


def plot_evolve(evolve_csv: str | Path = "path/to/evolve.csv") -> None:
    """Plot evolve.png beside an evolve.csv: fitness over each hyperparameter.

    Raises:
        InputError: the file cannot be read, or has no rows.
    """
    file = Path(evolve_csv)
    table = read_table(file)
    rows = [dict(zip(table.columns, map(float, cells), strict=True)) for cells in table.lines.values()]
    _draw_evolution(rows, file, file.with_suffix(".png"))


def plot_evolution(yaml_file: str | Path = "data/hyp.finetune.yaml") -> None:
    """Plot evolve.png from the evolve.txt of release 5.0 in the working directory and its hyperparameter YAML (5.0).

    Raises:
        InputError: a file cannot be read, or they do not belong together.
    """
    source = Path("evolve.txt")
    table, genes = _read_rows(source), list(read_yaml(yaml_file))
    if table.shape[1] != NUM_RESULTS + len(genes):
        raise InputError(f"{source}: {table.shape[1]} columns, but {yaml_file} has {len(genes)} hyperparameters")
    columns = [*(f"metrics/{index}" for index in range(NUM_RESULTS)), *genes]
    _draw_evolution([dict(zip(columns, row, strict=True)) for row in table.tolist()], source, Path("evolve.png"))


def _draw_evolution(rows: list[dict[str, float]], source: Path, file: Path) -> None:
    """Plot the generations of an evolution, whose first columns are results."""
    if not rows:
        raise InputError(f"{source}: no generations; give the evolve.csv of train.py --evolve")
    generations = []
    for number, row in enumerate(rows, start=1):
        values = list(row.values())
        fitness = row.get(FITNESS, MAP50_WEIGHT * values[2] + MAP_WEIGHT * values[3])
        genes = {name: value for name, value in row.items() if name in GENES and name not in (FITNESS, NUMBER)}
        generations.append(Generation({}, genes, fitness, number))
    draw_evolution(generations, file)
    best = max(generations, key=lambda generation: generation.fitness)
    LOGGER.info(f"{file}: best of {len(rows)} generations is number {best.number}, fitness {best.fitness:.5g}")


def plot_val_study(file: str | Path = "", dir: str | Path = "", x: Sequence[int] | None = None) -> None:
    """Plot study.png from the tables of `val.py --task study`.

    Args:
        file: one table; by default all `study*.txt` of the folder `dir`.
        x: image sizes of the rows, in pixels.
    """
    files = [Path(file)] if str(file) else sorted(Path(dir).glob(STUDY_FILES))
    folder = Path(file).parent if str(file) else Path(dir)
    result_plots.plot_study(files, folder / "study.png", sizes=result_plots.STUDY_SIZES if x is None else x)


def plot_study_txt(path: str | Path = "", x: Sequence[int] | None = None) -> None:
    """As `plot_val_study` for the folder `path` (5.0)."""
    plot_val_study(dir=path, x=x)


# -- arrays of numbers ------------------------------------------------------------------------------------------------


def hist2d(x: np.ndarray, y: np.ndarray, n: int = 100) -> np.ndarray:
    """For each point, the logarithm of the number of points in its cell of an n x n grid."""
    counts, x_edges, y_edges = np.histogram2d(x, y, n)
    columns = np.clip(np.digitize(x, x_edges) - 1, 0, n - 1)
    rows = np.clip(np.digitize(y, y_edges) - 1, 0, n - 1)
    logarithms: np.ndarray = np.log(np.maximum(counts[columns, rows], 1))
    return logarithms


def butter_lowpass_filtfilt(data: np.ndarray, cutoff: float = 1500, fs: float = 50000, order: int = 5) -> np.ndarray:
    """A Butterworth low-pass, applied forward and backward.

    Args:
        cutoff, fs: cut-off frequency and sampling rate.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    signal = import_runtime("scipy.signal", needed_for="low-pass filters", install="scipy")
    numerator, denominator = signal.butter(order, cutoff / (fs / 2), btype="low")
    filtered: np.ndarray = signal.filtfilt(numerator, denominator, data)
    return filtered


def plot_val_txt() -> None:
    """Plot hist2d.png and hist1d.png: the centers of the boxes (x1, y1, x2, y2) in val.txt in the working directory."""
    _plot_centers(Path("val.txt"))


def plot_test_txt() -> None:
    """As `plot_val_txt`, for test.txt (5.0)."""
    _plot_centers(Path("test.txt"))


def plot_targets_txt() -> None:
    """Plot targets.jpg: histograms of the columns x, y, width, height of targets.txt in the working directory."""
    table = _read_rows(Path("targets.txt"))
    figure = create_figure(8, 8)
    for index, name in enumerate(("x", "y", "width", "height")):
        values = table[:, index]
        axes = figure.add_subplot(2, 2, index + 1)
        axes.hist(values, bins=BINS_1D, label=f"{values.mean():.3g} +- {values.std():.3g}")
        axes.set_title(f"{name} targets")
        axes.legend()
    save_figure(figure, Path("targets.jpg"))


def plot_wh_methods() -> None:
    """Plot comparison.png: width and height by a raw output, as YOLOv3 (exp) and YOLOv5 (2 sigmoid) do (5.0)."""
    x = np.linspace(-4, 4, 81)
    sigmoid = 1 / (1 + np.exp(-x))
    figure = create_figure(6, 3)
    axes = figure.add_subplot()
    for values, label in (
        (np.exp(x), "YOLOv3"), ((2 * sigmoid) ** 2, "YOLOv5, power 2"), ((2 * sigmoid) ** 1.6, "YOLOv5, power 1.6"),
    ):  # fmt: skip
        axes.plot(x, values, ".-", label=label)
    axes.set(xlim=(-4, 4), ylim=(0, 6), xlabel="input", ylabel="output")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, Path("comparison.png"))


def plot_results_overlay(start: int = 0, stop: int = 0) -> None:
    """InputError: results*.txt of release 5.0 are not supported."""
    raise InputError("results*.txt of release 5.0 cannot be plotted; use plot_results with a results.csv")


def profile_idetection(start: int = 0, stop: int = 0, labels: Sequence[str] = (), save_dir: str | Path = "") -> None:
    """InputError: logs of the iDetection app are not supported."""
    raise InputError(f"{save_dir or 'frames*.txt'}: logs of the iDetection app are not supported; plot them yourself")


def _read_rows(file: Path) -> np.ndarray:
    """The numbers (rows, columns) of a text file."""
    try:
        return np.loadtxt(file, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}; expected rows of numbers in the working directory") from error


def _plot_centers(file: Path) -> None:
    boxes = xyxy_to_xywh(_read_rows(file)[:, :4])
    figure = create_figure(6, 6)
    axes = figure.add_subplot()
    counts, x_edges, y_edges = np.histogram2d(boxes[:, 0], boxes[:, 1], BINS_2D)
    axes.imshow(counts.T, vmax=MAX_COUNT, origin="lower", extent=(x_edges[0], x_edges[-1], y_edges[0], y_edges[-1]))
    save_figure(figure, Path("hist2d.png"))
    figure = create_figure(12, 6)
    for column in (0, 1):
        figure.add_subplot(1, 2, column + 1).hist(boxes[:, column], bins=BINS_2D, histtype="stepfilled")
    save_figure(figure, Path("hist1d.png"))
