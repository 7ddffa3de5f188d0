"""From a detection set to folders of crop objects: `python -m utils.datasets crops --data det.yaml --out folder`.

`python -m utils.datasets.crops` is the same command.

Each labelled object becomes `<out>/<split>/<class>/<image>_<number>.jpg`, as classify/train.py takes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.config.base import BaseConfig, option, switch
from utils.config.flag_types import not_negative_float, positive_int
from utils.core.errors import InputError
from utils.core.files import folder_name, new_folder
from utils.core.logging import LOGGER
from utils.core.script import run_script

if TYPE_CHECKING:
    import numpy as np

    from utils.datasets.index.data_yaml import DataSpec

QUALITY = 95  # of the JPEG files


@dataclass(frozen=True)
class CropsConfig(BaseConfig):
    """Cut the labelled objects of a detection set out into a folder for each class and split."""

    data: str = option("data/coco128.yaml", "--data", help="data set YAML")
    out: str = option("", "--out", required=True, help="folder to write; it must be empty or new")
    margin: float = option(0.1, "--margin", type=not_negative_float, help="surroundings, over the size of the box")
    square: bool = switch("--square", help="widen the shorter side to a square as far as the image goes")
    min_side: int = option(10, "--min-side", type=positive_int, help="objects with a shorter side, pixels, stay out")


def write_crops(config: CropsConfig) -> dict[str, Counter[str]]:
    """Cut out every object of every split that is on the disk; how many of each class by split.

    Raises:
        InputError: the set cannot be used, or the folder has something in it already.
    """
    from utils.datasets.index.data_yaml import load_spec

    spec = load_spec(config.data)
    out = Path(config.out)
    there = [split for split, place in spec.splits.items() if not place.missing]
    folders = class_folder_names(spec.names)
    with new_folder(out, "--out") as work:
        counts = {split: _write_split(spec, split, work / split, folders, config) for split in there}
    LOGGER.info(describe(counts, folders))
    LOGGER.info(f"Written to {out}; train with: python classify/train.py --data {out}")
    return counts


def class_folder_names(names: dict[int, str]) -> dict[int, str]:
    """Class names as folder names; InputError where two would share one."""
    folders = {number: folder_name(name) for number, name in names.items()}
    shared = [name for name, count in Counter(folders.values()).items() if count > 1]
    if shared:
        raise InputError(f"two classes would share the folder {shared[0]!r}; rename one in the data YAML")
    return folders


def _write_split(
    spec: DataSpec, split: str, folder: Path, folders: dict[int, str], config: CropsConfig
) -> Counter[str]:
    """Write the crops of one split, and a folder for each class even where it has none."""
    from utils.datasets.index.labels import load_index
    from utils.imaging.read import imwrite, read_image

    for name in folders.values():
        (folder / name).mkdir(parents=True)
    index = load_index(spec, split)
    counts: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for i, path in enumerate(index.paths):
        classes, boxes_xywhn, _ = index.labels(i)
        if not len(classes):
            continue
        frame = read_image(path)
        stem = Path(path).stem
        taken[stem] += 1  # images of different folders may share a name
        stem = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        for number, (label, crop) in enumerate(crop_objects(frame, classes, boxes_xywhn, config)):
            name = folders[label]
            imwrite(folder / name / f"{stem}_{number}.jpg", crop, quality=QUALITY)
            counts[name] += 1
    return counts


def crop_objects(
    frame: np.ndarray, classes: np.ndarray, boxes_xywhn: np.ndarray, config: CropsConfig
) -> Iterator[tuple[int, np.ndarray]]:
    """Class and crop (a view) of each object of an image that is large enough.

    Args:
        frame: (H, W, C).
        classes: (n,).
        boxes_xywhn: (n, 4) center and size over width and height.
        config: margin, square and min_side.
    """
    height, width = frame.shape[:2]
    for label, (x, y, w, h) in zip(classes.tolist(), boxes_xywhn.tolist(), strict=True):
        if min(w * width, h * height) < config.min_side:
            continue
        sides = w * width * (1 + config.margin), h * height * (1 + config.margin)
        wide, high = (max(sides), max(sides)) if config.square else sides
        x1, x2 = _span(x * width, wide, width)
        y1, y2 = _span(y * height, high, height)
        yield int(label), frame[y1:y2, x1:x2]


def _span(center: float, length: float, limit: int) -> tuple[int, int]:
    """Whole pixels from start to end around a center, inside the image and at least one."""
    start = max(0, min(round(center - length / 2), limit - 1))
    return start, max(start + 1, min(round(center + length / 2), limit))


def describe(counts: dict[str, Counter[str]], folders: dict[int, str]) -> str:
    """A table of objects, a line for each class and a column for each split."""
    lines = [f"{'Class':>22}" + "".join(f"{split:>11}" for split in counts)]
    lines += [f"{name:>22}" + "".join(f"{count[name]:>11}" for count in counts.values()) for name in folders.values()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line entry."""
    write_crops(CropsConfig.from_args(argv))


if __name__ == "__main__":
    run_script(main)
