"""Functions for images, label files and folders of data sets."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from utils.config.datasets import CropsConfig, SplitConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.labels import get_label_path
from utils.datasets.index.listing import iter_files, list_images
from utils.datasets.index.verify import LabelRows, read_label_file, verify_image
from utils.datasets.prepare.archives import datasets_folder
from utils.datasets.tools import split
from utils.datasets.tools.crops import crop_objects
from utils.imaging.read import imwrite, read_image
from utils.ops.polygons import join_rings

ANY_CLASS = 1 << 24  # number of classes where no data YAML names them; float32 is exact up to it
ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
ORIENTATION = 0x0112  # EXIF tag


def exif_size(img: Image.Image) -> tuple[int, int]:
    """Width and height of a PIL image after the rotation of its EXIF tag."""
    width, height = img.size
    return (height, width) if img.getexif().get(ORIENTATION) in ROTATED else (width, height)


def exif_transpose(image: Image.Image) -> Image.Image:
    """The image rotated as its EXIF tag says, without the tag; the image itself if it has none."""
    return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image


def get_hash(paths: Sequence[str]) -> str:
    """MD5 of the total size of the existing files and of all paths, in hexadecimal digits."""
    size = sum(Path(path).stat().st_size for path in paths if Path(path).exists())
    digest = hashlib.md5(str(size).encode(), usedforsecurity=False)
    digest.update("".join(paths).encode(errors="surrogateescape"))
    return digest.hexdigest()


def img2label_paths(img_paths: Iterable[str]) -> list[str]:
    """The label file of each image: the last folder `images` becomes `labels`, the suffix .txt."""
    return [get_label_path(str(path)) for path in img_paths]


def verify_image_label(args: tuple[str, str, str]) -> tuple[Any, ...]:
    """Verify an image and its label file.

    Args:
        args: image, label file, prefix of messages.

    Returns:
        image, labels (n, 5) class and xywhn, size (w, h), segments, then 0 or 1 each for: label file missing, found,
        empty, image unusable; message. The first four are None for an unusable image.
    """
    image, label, prefix = args
    verified = verify_image(str(image), str(label), ANY_CLASS)
    messages = verified.labels.messages
    message = f"{prefix}WARNING {'; '.join(messages)}" if messages else ""
    if verified.size_hw is None:
        return None, None, None, None, 0, 0, 0, 1, message
    is_empty = verified.labelled and not len(verified.labels.rows)
    counts = int(not verified.labelled), int(verified.labelled), int(is_empty), 0
    height, width = verified.size_hw
    return image, verified.labels.rows, (width, height), to_segments(verified.labels), *counts, message


def to_segments(labels: LabelRows) -> list[np.ndarray]:
    """One normalized outline (K, 2) per row; none if all rows are boxes. A row that is a box has its four corners."""
    if labels.polygons is None:
        return []
    boxes = labels.rows[:, 1:]
    x1y1, x2y2 = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    corners = np.stack([x1y1, np.c_[x2y2[:, 0], x1y1[:, 1]], x2y2, np.c_[x1y1[:, 0], x2y2[:, 1]]], axis=1)
    return [join_rings(rings) if rings else box for rings, box in zip(labels.polygons, corners, strict=True)]


def create_folder(path: str | Path = "./new") -> None:
    """Create an empty folder; InputError if it exists and has files."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    if next(folder.iterdir(), None) is not None:
        raise InputError(f"{folder}: the folder is not empty; delete it first, or choose another one")


def flatten_recursive(path: str | Path | None = None) -> Path:
    """Copy all files below a folder (default: coco128) into `<path>_flat`, which is returned; it must be empty or new.

    Files of the same name are numbered.
    """
    source = Path(path) if path is not None else datasets_folder() / "coco128"
    flat = source.with_name(f"{source.name}_flat")
    create_folder(flat)
    for file in sorted(iter_files(source)):
        target = flat / Path(file).name
        numbers = iter(range(2, 1 << 31))
        while target.exists():
            target = flat / f"{Path(file).stem}_{next(numbers)}{Path(file).suffix}"
        shutil.copyfile(file, target)
    return flat


def extract_boxes(path: str | Path | None = None) -> None:
    """Write a crop of every labeled object below a folder (default: coco128) for a classifier.

    The crops are `<path>/classifier/<class number>/<image>_<number>.jpg`. Images without a label file are skipped.
    """
    root = Path(path) if path is not None else datasets_folder() / "coco128"
    folder = root / "classifier"
    images = [image for image in list_images(root, root) if Path(get_label_path(image)).is_file()]
    create_folder(folder)
    for image in images:
        rows = read_label_file(get_label_path(image), ANY_CLASS).rows
        crops = crop_objects(read_image(image), rows[:, 0].astype(int), rows[:, 1:], CropsConfig())
        for number, (label, crop) in enumerate(crops):
            target = folder / str(label) / f"{Path(image).stem}_{number}.jpg"
            target.parent.mkdir(exist_ok=True)
            imwrite(target, crop)
    LOGGER.info(f"Crops of the objects in {len(images)} images saved to {folder}")


def autosplit(
    path: str | Path | None = None,
    weights: Sequence[float] = (0.9, 0.1, 0.0),
    annotated_only: bool = False,
) -> None:
    """Split images at random into the lists autosplit_train.txt, autosplit_val.txt and autosplit_test.txt.

    The lists are next to the folder and replace earlier ones.

    Args:
        path: folder of images; coco128/images by default.
        weights: shares of train, val and test.
        annotated_only: skip images without a label file.
    """
    images = os.fspath(path) if path is not None else str(datasets_folder() / "coco128" / "images")
    split.run(SplitConfig(images=images, shares=list(weights), annotated_only=annotated_only, exist_ok=True))
