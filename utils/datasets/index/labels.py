"""Index of a split with boxes or polygons: list its images, verify their labels, cache the result."""

# Paths are strings here: for a hundred thousand of them os.path is several times faster than pathlib.
# ruff: noqa: PTH112, PTH117, PTH118, PTH119, PTH122, PTH207

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
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
from utils.datasets.index.shared_arrays import PathTable
from utils.datasets.index.verify import LabelRows, name_damaged_images, verify_image
from utils.imaging.console import capture_stderr
from utils.imaging.read import IMAGE_SUFFIXES

SHOWN_MESSAGES = 10
MAX_PROBED_LINES = 1000  # of a list file, to find the folder that its lines are relative to
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


def list_images(path: Path, root: Path) -> list[str]:
    """Images in a folder (recursive), list file or glob pattern, or the image itself; sorted.

    A line of a list file that starts with ./ is relative to that file's folder. Other relative lines are relative to
    the working folder, `root` or the file's folder, whichever has the first existing file. Lines that start with # are
    comments.

    Raises:
        InputError: a list file cannot be read.
    """
    if path.is_dir():
        files = [os.path.join(top, name) for top, _, names in os.walk(path, followlinks=True) for name in names]
    elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return [str(path)]
    elif path.is_file():
        return _read_list(path, root)
    else:
        files = []
        for match in glob.iglob(str(path), recursive=True):
            files += list_images(Path(match), root) if os.path.isdir(match) else [match]
    return _filter_images(files)


def get_split_source(spec: DataSpec, split: str) -> SplitSource:
    """The source of a split; InputError if it is not in the YAML or not on disk."""
    if split not in spec.splits:
        raise InputError(f"{spec.path}: no split {split!r}, only {', '.join(spec.splits)}")
    source = spec.splits[split]
    if source.missing:
        raise InputError(f"{spec.path}: {split}: {source.missing[0]!r} not found under {spec.root}")
    return source


def _list_pairs(spec: DataSpec, source: SplitSource) -> tuple[Sequence[str], Sequence[str | LabelRows]]:
    """Image files of a split, and for each its label file or its rows from the COCO JSON."""
    listed = [image for place in source.paths for image in list_images(place, spec.root)]
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


def _filter_images(files: Iterable[str]) -> list[str]:
    """Sorted images without hidden files; an .npy file next to an image of the same name is a cache, not an image."""
    paths = [
        file
        for file in files
        if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(file).startswith(".")
    ]
    if any(path.lower().endswith(".npy") for path in paths):
        images = {os.path.splitext(path)[0] for path in paths if not path.lower().endswith(".npy")}
        paths = [path for path in paths if not path.lower().endswith(".npy") or os.path.splitext(path)[0] not in images]
    return sorted(paths)


def _read_list(file: Path, root: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: neither an image nor a readable list of images ({error})") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    relative = (line for line in lines if not line.startswith("./") and not os.path.isabs(line))
    bases = (Path.cwd(), root, file.parent)
    candidates = ((base, line) for line in itertools.islice(relative, MAX_PROBED_LINES) for base in bases)
    base = next((base for base, line in candidates if (base / line).exists()), file.parent)
    absolute = (file.parent / line if line.startswith("./") else base / line for line in lines)
    return [os.path.normpath(path) for path in absolute]


def _cache_file(source: SplitSource, images: Sequence[str]) -> Path:
    """Cache file next to the labels folder, list file or JSON; its name has a hash if the split has several paths."""
    if source.annotations is not None:
        first = source.annotations
    elif len(source.paths) == 1 and source.paths[0].is_file():
        first = source.paths[0]
    else:
        first = Path(get_label_path(images[0])).parent
    tag = "" if len(source.paths) == 1 else f".{hashlib.sha256(repr(source.paths).encode()).hexdigest()[:8]}"
    return first.with_name(f"{first.name if first.is_dir() else first.stem}{tag}.cache")


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
