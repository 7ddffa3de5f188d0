"""Index of a split with boxes or polygons: list its images, verify their labels, cache the result."""

# Paths are strings here: for a hundred thousand of them os.path is several times faster than pathlib.
# ruff: noqa: PTH118, PTH122

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.core.errors import InputError
from utils.core.logging import LOGGER, get_tqdm_disable
from utils.datasets.index.cache import Findings, compute_fingerprint, load_or_build
from utils.datasets.index.coco_json import load_annotations
from utils.datasets.index.data_yaml import DataSpec, SplitSource
from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.datasets.index.listing import list_images
from utils.datasets.index.shared_arrays import PathTable
from utils.datasets.index.verify import LabelRows, name_damaged_images, verify_image
from utils.imaging.console import capture_stderr

SHOWN_MESSAGES = 10
CHUNK = 1 << 10  # images whose verification is queued at a time
PROGRESS_FROM = 1000  # images; verifying fewer is too quick for a progress bar


def load_index(
    spec: DataSpec,
    split: str,
    *,
    single_cls: bool = False,
    verbose: bool = False,
    workers: int = 8,
    require_labels: bool = True,
) -> ImageIndex:
    """The verified images and labels of a split; logs problems and a one-line summary.

    Args:
        single_cls: make every object class 0.
        verbose: log every problem instead of the first few.
        workers: threads that verify.
        require_labels: raise an error if the split has no objects.

    Raises:
        InputError: the split is not in the YAML or not on disk, or has no usable image or no labels.
    """
    index, findings = verify_split(spec, split, workers)
    log_findings(split, index, findings, verbose=verbose)
    if not index.paths:
        raise InputError(f"{spec.path}: {split}: none of the {findings.corrupt} images can be read")
    only_backgrounds = not (findings.dropped or findings.unlabelled) and split != "train"  # a valid split
    if require_labels and not index.num_objects and not only_backgrounds:
        expected = spec.splits[split].annotations or get_label_path(index.paths[0])
        if findings.dropped:
            raise InputError(
                f"{spec.path}: {split}: all {findings.dropped} label rows are invalid, see the warnings above"
            )
        if not findings.unlabelled:
            raise InputError(f"{spec.path}: {split}: all label files are empty, so there are no objects")
        raise InputError(f"{spec.path}: {split}: no labels found; expected the first in {expected}")
    if single_cls:
        names = spec.names if spec.num_classes == 1 else {0: "item"}
        return replace(index, classes=np.zeros_like(index.classes), names=names)
    return replace(index, names=spec.names)


def verify_split(spec: DataSpec, split: str, workers: int = 8) -> tuple[ImageIndex, Findings]:
    """The verified images and labels of a split, from the cache if it is valid.

    Raises:
        InputError: the split is not in the YAML or not on disk, or has no images.
    """
    source = get_split_source(spec, split)
    images, labels = _list_pairs(spec, source)
    if not images:
        raise InputError(f"{spec.path}: {split}: no images under {', '.join(map(str, source.paths))}")
    label_files = [str(source.annotations)] if source.annotations else map(str, labels)
    files = itertools.chain(images, label_files)
    key = compute_fingerprint(files, spec.num_classes, source.annotations, spec.names)
    verify = partial(verify_images, images, labels, spec.num_classes, split, workers)
    return load_or_build(_cache_file(source, images), key, verify)


def get_label_path(image: str) -> str:
    """The label file of an image: the last folder named `images` becomes `labels`, the suffix .txt."""
    folder, name = os.path.split(image)
    before, separator, after = f"{folder}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
    if separator:
        folder = f"{before}{os.sep}labels{os.sep}{after}"
    return os.path.join(folder, f"{os.path.splitext(name)[0]}.txt")


def get_split_source(spec: DataSpec, split: str) -> SplitSource:
    """The source of a split; InputError if it is not in the YAML or not on disk."""
    if split not in spec.splits:
        raise InputError(f"{spec.path}: no split {split!r}, only {', '.join(spec.splits)}")
    source = spec.splits[split]
    if source.missing:
        raise InputError(f"{spec.path}: {split}: {source.missing[0]!r} not found under {spec.root}")
    return source


def list_split_files(spec: DataSpec, source: SplitSource) -> list[str]:
    """Images of all paths of a split; InputError that names the data YAML and the split."""
    try:
        return [image for path in source.paths for image in list_images(path, spec.root)]
    except InputError as error:
        raise InputError(f"{spec.path}: {source.split}: {error}") from error


def _list_pairs(spec: DataSpec, source: SplitSource) -> tuple[Sequence[str], Sequence[str | LabelRows]]:
    """Image files of a split, and for each its label file or its rows from the COCO JSON."""
    listed = list_split_files(spec, source)
    if source.annotations is None:
        _warn_duplicates(spec, source, listed)
        return PathTable.from_paths(listed), PathTable.from_paths([get_label_path(image) for image in listed])
    return load_annotations(source.annotations, spec.names, listed, source.paths)


def _warn_duplicates(spec: DataSpec, source: SplitSource, listed: Sequence[str]) -> None:
    """Warn about images that are listed more than once, which may be meant to give them more weight."""
    if (len(source.paths) > 1 or source.paths[0].is_file()) and (repeats := len(listed) - len(set(listed))):
        LOGGER.warning(
            f"WARNING {spec.path}: {source.split}: {repeats} of {len(listed)} images are duplicates and are used each "
            "time; list each image once unless this is intended"
        )


def _cache_file(source: SplitSource, images: Sequence[str]) -> Path:
    """Cache file next to the labels folder, list file or JSON; its name has a hash if the split has several paths."""
    if source.annotations is not None:
        first = source.annotations
    elif len(source.paths) == 1 and source.paths[0].is_file():
        first = source.paths[0]
    else:
        first = Path(get_label_path(images[0])).parent
    tag = "" if len(source.paths) == 1 else f".{hashlib.sha256(repr(source.paths).encode()).hexdigest()[:8]}"
    return first.parent / f"{first.name if first.is_dir() else first.stem}{tag}.cache"


def verify_images(
    images: Sequence[str], labels: Sequence[str | LabelRows], num_classes: int, split: str, workers: int
) -> tuple[ImageIndex, Findings]:
    """Verify images and labels.

    Args:
        images: N image files.
        labels: N label files, or rows that are not checked yet.
    """
    results, damage = run_verification(partial(verify_image, num_classes=num_classes), images, labels, split, workers)
    usable = [(image, result) for image, result in zip(images, results, strict=True) if result.size_hw is not None]
    label_rows = [result.labels for _, result in usable]
    findings = Findings(
        images=len(usable),
        backgrounds=sum(len(entry.rows) == 0 for entry in label_rows),
        unlabelled=sum(not result.labelled for _, result in usable),
        corrupt=len(images) - len(usable),
        dropped=sum(result.labels.dropped for result in results),
        clipped=sum(result.labels.clipped for result in results),
        messages=[*damage, *(message for result in results for message in result.labels.messages)],
    )
    rows = np.concatenate([np.zeros((0, 5), np.float32), *(entry.rows for entry in label_rows)])
    polygons = None
    if any(entry.polygons is not None for entry in label_rows):
        objects = [rings for entry in label_rows for rings in entry.polygons or [[]] * len(entry.rows)]
        polygons = PolygonTable.from_lists(
            [rings or [box_to_polygon(box)] for rings, box in zip(objects, rows[:, 1:], strict=True)]
        )
    index = ImageIndex(
        paths=PathTable.from_paths([image for image, _ in usable]),
        sizes_hw=np.array([result.size_hw for _, result in usable], np.int32).reshape(-1, 2),
        offsets=compute_offsets(len(entry.rows) for entry in label_rows),
        classes=rows[:, 0].astype(np.int32),
        boxes_xywhn=np.ascontiguousarray(rows[:, 1:]),
        polygons=polygons,
    )
    return index, findings


def run_verification(
    verify: Callable[[str, Any], Any], images: Sequence[str], labels: Sequence[Any], split: str, workers: int
) -> tuple[list[Any], list[str]]:
    """Results of `verify` for each image and its label, and messages of decoders about damaged images.

    Verifies in threads: decoding, which dominates, releases the GIL.
    """
    results: list[Any] = []
    messages: list[str] = []
    hidden = get_tqdm_disable(len(images) >= PROGRESS_FROM)
    with (
        ThreadPoolExecutor(max(1, min(workers, os.cpu_count() or 1))) as pool,
        tqdm(desc=f"Verifying {split}", total=len(images), disable=hidden) as bar,
    ):
        for start in range(0, len(images), CHUNK):  # a million queued calls would fill the memory
            chunk = slice(start, start + CHUNK)
            with capture_stderr() as lines:
                results += pool.map(verify, images[chunk], labels[chunk])
            messages += name_damaged_images(images[chunk], lines)
            bar.update(len(results) - start)
    return results, messages


def box_to_polygon(box_xywh: np.ndarray) -> np.ndarray:
    """(4,) center and size -> (4, 2) corners, clockwise from top left, in the same unit."""
    x, y, w, h = box_xywh
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) / 2
    return np.array([x, y], np.float32) + signs * np.array([w, h], np.float32)


def log_messages(messages: Sequence[str], *, verbose: bool) -> None:
    """Log problems with images and labels, the first few or all."""
    shown = messages if verbose else messages[:SHOWN_MESSAGES]
    for message in shown:
        LOGGER.warning(f"WARNING {message}")
    if len(shown) < len(messages):
        LOGGER.warning(f"WARNING ... and {len(messages) - len(shown)} more (--verbose shows all)")


def log_findings(split: str, index: ImageIndex, findings: Findings, *, verbose: bool) -> None:
    """Log the problems of a split, the first few or all, and a one-line summary."""
    log_messages(findings.messages, verbose=verbose)
    LOGGER.info(
        f"{split}: {findings.images} images, {findings.backgrounds} backgrounds "
        f"({findings.unlabelled} without a label file), {findings.corrupt} corrupt; {index.num_objects} objects, "
        f"{findings.dropped} rows dropped, {findings.clipped} boxes clipped"
    )
