"""Training: seeds, weights of classes and images, checkpoints, evolution."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from models.checkpoint import strip_checkpoint
from models.official import SAFE_GLOBALS
from utils.core.files import atomic_write
from utils.core.logging import LOGGER
from utils.core.results_csv import format_row
from utils.datasets.image_weights import inverse_frequency
from utils.general.logs import colorstr
from utils.metrics.coco import COCO_IDS
from utils.metrics.detection import MAP50_WEIGHT, MAP_WEIGHT
from utils.train.determinism import use_deterministic_algorithms

__all__ = [
    "TQDM_BAR_FORMAT", "allow_networks", "coco80_to_coco91_class", "get_default_args", "init_seeds", "intersect_dicts",
    "labels_to_class_weights", "labels_to_image_weights", "one_cycle", "print_mutation", "strip_optimizer",
]  # fmt: skip
TQDM_BAR_FORMAT = "{l_bar}{bar:10}{r_bar}"  # a short bar between the columns
RESULT_KEYS = (  # of detection, in the order of `val.run`
    *("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
    *("val/box_loss", "val/obj_loss", "val/cls_loss"),
)
NUMPY_CORES = ("numpy.core", "numpy._core")  # of numpy 1 and 2
COLUMN_WIDTH, TEXT_WIDTH = 20, 11  # characters of evolve.csv, and of the evolve.txt of release 5.0


def allow_networks() -> None:
    """Let `torch.load` read networks of YOLOv5 checkpoints, and numpy arrays, with `weights_only=True`, its default."""
    allowed: list[Any] = [*SAFE_GLOBALS, np.ndarray, np.dtype]
    allowed += [type(np.dtype(name)) for name in ("float32", "float64", "int64")]
    for example in (np.float64(0), np.zeros(1)):
        function: Any = example.__reduce__()[0]
        allowed += [(function, f"{core}.multiarray.{function.__name__}") for core in NUMPY_CORES]
    torch.serialization.add_safe_globals(allowed)


def init_seeds(seed: int = 0, deterministic: bool = False) -> None:
    """Seed the generators of Python, NumPy and PyTorch; with `deterministic`, use deterministic algorithms."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    if deterministic:
        use_deterministic_algorithms()


def intersect_dicts(
    da: Mapping[str, Tensor], db: Mapping[str, Tensor], exclude: Collection[str] = ()
) -> dict[str, Tensor]:
    """Items of `da` that `db` has with the same shape, unless their name contains one of `exclude`."""
    return {
        key: value
        for key, value in da.items()
        if key in db and value.shape == db[key].shape and not any(part in key for part in exclude)
    }


def get_default_args(func: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a function that have a default, with it."""
    parameters = inspect.signature(func).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def one_cycle(y1: float = 0.0, y2: float = 1.0, steps: int = 100) -> Callable[[float], float]:
    """A function of the step that goes from `y1` to `y2` along half a cosine (arXiv:1812.01187, section 5.1)."""
    return lambda x: y1 + (y2 - y1) * (1 - math.cos(math.pi * x / steps)) / 2


# -- labels -----------------------------------------------------------------------------------------------------------


def labels_to_class_weights(labels: Sequence[np.ndarray | None], nc: int = 80) -> Tensor:
    """Inverse frequency (nc,) of each class, summing to 1.

    Args:
        labels: per image (n, 5) with the class first; if the first is None, the result is empty.
    """
    if not len(labels) or labels[0] is None:
        return torch.zeros(0)
    classes = np.concatenate([np.asarray(rows)[:, 0].astype(int) for rows in labels])
    return torch.from_numpy(inverse_frequency(classes, nc)).float()


def labels_to_image_weights(
    labels: Sequence[np.ndarray],
    nc: int = 80,
    class_weights: np.ndarray = np.ones(80),  # noqa: B008 (not changed)
) -> np.ndarray:
    """Weight (images,) of each image: the sum of `class_weights` (nc,) over its labels (n, 5), class first."""
    weights = np.asarray(class_weights).reshape(-1)[:nc]
    return np.array([weights[np.asarray(rows)[:, 0].astype(int)].sum() for rows in labels])


def coco80_to_coco91_class() -> list[int]:
    """The category number in the COCO data set, 1 to 90, of each of its 80 classes."""
    return list(COCO_IDS)


# -- checkpoints and evolution ----------------------------------------------------------------------------------------


def strip_optimizer(f: str | Path = "best.pt", s: str | Path = "") -> None:
    """Strip a checkpoint to the EMA's weights in FP16, without training state, in place or into file `s`.

    A checkpoint with pickled modules, as YOLOv5 writes it, is read without executing it and keeps its format.
    """
    source, target = Path(f), Path(s or f)
    strip_checkpoint(source, target)
    LOGGER.info(f"{source}: optimizer stripped, saved as {target}, {target.stat().st_size / 1e6:.1f} MB")


def print_mutation(
    keys: Any = None, results: Any = None, hyp: Any = None, save_dir: Any = None, bucket: Any = None,
    prefix: str = colorstr("evolve: "),
) -> None:  # fmt: skip
    """Add a generation to evolve.csv, write the best hyperparameters to hyp_evolve.yaml and log the generation.

    Earlier releases gave other arguments in these places: `print_mutation(results, hyp, save_dir, bucket)` in 6.0,
    and `print_mutation(hyp, results, yaml_file, bucket)` in 5.0, which writes evolve.txt in the working directory.

    Args:
        keys: names of the results.
        results: numbers, of which the third and fourth are mAP 0.5 and 0.5:0.95.
        hyp: hyperparameters.
        save_dir: folder of the files.
        bucket: of cloud storage; not supported, with a warning.
    """
    if isinstance(keys, Mapping):
        _add_text_row(keys, results, Path(hyp or "hyp_evolved.yaml"))
        bucket = save_dir
    else:
        if isinstance(results, Mapping):
            keys, results, hyp, save_dir, bucket = RESULT_KEYS, keys, results, hyp, save_dir
        _add_generation(keys or RESULT_KEYS, results, hyp, Path(save_dir or ""), prefix)
    if bucket:
        LOGGER.warning(f"WARNING {bucket}: files are not copied to cloud storage; copy them yourself")


def _add_generation(
    keys: Sequence[str], results: Sequence[float], hyp: Mapping[str, float], folder: Path, prefix: str
) -> None:
    names, values = [*(key.strip() for key in keys), *hyp], [*map(float, results), *map(float, hyp.values())]
    cells = [f"{value:.5g}" for value in values]
    file = folder / "evolve.csv"
    is_new = not file.exists()
    with file.open("a", encoding="utf-8") as stream:
        stream.write((format_row(names, width=COLUMN_WIDTH) if is_new else "") + format_row(cells, width=COLUMN_WIDTH))
    rows = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
    best = _find_best(rows)
    _write_best(folder / "hyp_evolve.yaml", rows[best], names[: len(keys)], list(hyp), number=best, count=len(rows))
    LOGGER.info(f"{prefix}{len(rows)} generations: {', '.join(f'{n} {c}' for n, c in zip(names, cells, strict=True))}")


def _add_text_row(hyp: Mapping[str, float], results: Sequence[float], yaml_file: Path) -> None:
    """Add a row to evolve.txt, without duplicates and with the best row first, and write the best hyperparameters."""
    file, values = Path("evolve.txt"), [*map(float, results), *map(float, hyp.values())]
    with file.open("a", encoding="utf-8") as stream:
        stream.write("".join(f"{value:{TEXT_WIDTH}.4g}" for value in values) + "\n")
    rows = np.unique(np.loadtxt(file, ndmin=2), axis=0)
    rows = rows[np.argsort(-_compute_fitness(rows), kind="stable")]
    np.savetxt(file, rows, fmt=f"%{TEXT_WIDTH}.4g", delimiter="")
    names = [key for key, _ in zip(RESULT_KEYS, results, strict=False)]
    _write_best(yaml_file, rows[0], names, list(hyp), number=0, count=len(rows))
    LOGGER.info(f"evolve: {', '.join(f'{key} {value:.4g}' for key, value in hyp.items())}")


def _compute_fitness(rows: np.ndarray) -> np.ndarray:
    return MAP50_WEIGHT * rows[:, 2] + MAP_WEIGHT * rows[:, 3]


def _find_best(rows: np.ndarray) -> int:
    return int(np.argmax(_compute_fitness(rows)))


def _write_best(
    file: Path, row: np.ndarray, keys: Sequence[str], genes: Sequence[str], *, number: int, count: int
) -> None:
    """Write the hyperparameters of a row as YAML, its results as comments."""
    results, values = row[: len(row) - len(genes)], row[len(row) - len(genes) :].tolist()
    lines = [f"# The best of {count} generations, number {number + 1}:"]
    lines += [f"# {key}: {value:.5g}" for key, value in zip(keys, results, strict=False)]
    lines += [yaml.safe_dump(dict(zip(genes, values, strict=True)), sort_keys=False)]
    with atomic_write(file) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
