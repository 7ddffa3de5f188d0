"""From a split's files to a verified `ImageIndex`, remembered in a cache beside the labels."""

# Paths stay text here: os.path handles a hundred thousand of them several times faster than pathlib.
# ruff: noqa: PTH112, PTH117, PTH118, PTH119, PTH122, PTH207

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.core.errors import InputError
from utils.core.logging import LOGGER, hidden_bar
from utils.core.types import Polygons
from utils.datasets.index.cache import Findings, fingerprint, keep, load_cache
from utils.datasets.index.coco_json import load_annotations
from utils.datasets.index.data_yaml import DataSpec, SplitSource
from utils.datasets.index.image_index import ImageIndex, PolygonTable, offsets_of
from utils.datasets.index.mapped import TextTable
from utils.datasets.index.verify import LabelRows, Verified, verify_image
from utils.imaging.read import IMAGE_SUFFIXES

SHOWN_MESSAGES = 10
LINES_TRIED = 1000  # of a list file, until one of them is there
AT_A_TIME = 1 << 14  # images that are checked before their results become arrays
PROGRESS_FROM = 1000  # images; below, the checks are over before a bar could be read


def load_index(
    spec: DataSpec,
    split: str,
    *,
    single_cls: bool = False,
    verbose: bool = False,
    workers: int = 8,
    require_labels: bool = True,
) -> ImageIndex:
    """The images and labels of a split, each checked; problems are logged, with a summary in one line.

    Args:
        single_cls: every object becomes class 0.
        verbose: list every problem instead of the first few.
        workers: threads for the checks.
        require_labels: a split without any object is an error.

    Raises:
        InputError: the split is not in the YAML or not on disk, has no usable image, or no label at all.
    """
    index, findings = verify_split(spec, split, workers)
    report_findings(split, index, findings, verbose=verbose)
    if not index.paths:
        raise InputError(f"{spec.path}: {split}: none of the {findings.corrupt} images can be read")
    only_background = not (findings.dropped or findings.unlabelled) and split != "train"  # nothing is wrong with it
    if require_labels and not index.num_objects and not only_background:
        expected = spec.splits[split].annotations or label_path(index.paths[0])
        if findings.dropped:
            raise InputError(
                f"{spec.path}: {split}: none of the {findings.dropped} label rows can be used, see the warnings above"
            )
        if not findings.unlabelled:
            raise InputError(f"{spec.path}: {split}: every image is labelled as empty, there is no object in any")
        raise InputError(f"{spec.path}: {split}: no labels found, the first was expected in {expected}")
    if single_cls:
        names = spec.names if spec.num_classes == 1 else {0: "item"}
        return replace(index, classes=np.zeros_like(index.classes), names=names)
    return replace(index, names=spec.names)


def verify_split(spec: DataSpec, split: str, workers: int = 8) -> tuple[ImageIndex, Findings]:
    """The images and labels of a split, each checked now or in an earlier run, and what was found.

    Raises:
        InputError: the split is not in the YAML or not on disk, or has no images.
    """
    source = usable_source(spec, split)
    images, labels = _list_pairs(spec, source)
    if not images:
        raise InputError(f"{spec.path}: {split}: no images under {', '.join(map(str, source.places))}")
    files = itertools.chain(images, _label_files(source, labels))
    key = fingerprint(files, spec.num_classes, source.annotations, spec.names)
    cache_file = _cache_file(source, images)
    known = load_cache(cache_file, key)
    if known is None:
        known = keep(cache_file, key, verify_pairs(images, labels, spec.num_classes, split, workers))
    return known


def label_path(image: str) -> str:
    """The label file of an image: the last folder `images` becomes `labels`, the suffix .txt."""
    folder, name = os.path.split(image)
    before, found, after = f"{folder}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
    if found:
        folder = f"{before}{os.sep}labels{os.sep}{after}"
    return os.path.join(folder, f"{os.path.splitext(name)[0]}.txt")


def list_images(place: Path, root: Path) -> list[str]:
    """Images of a folder (searched to the bottom), list file, glob pattern, or the image itself; sorted.

    A line of a list file that starts with ./ counts from that file's folder; another relative one from the working
    folder, `root` or the file's folder, wherever the first line that is there is found. Lines that start with # are
    comments.

    Raises:
        InputError: a list file that cannot be read.
    """
    if place.is_dir():
        found = [os.path.join(top, name) for top, _, names in os.walk(place, followlinks=True) for name in names]
    elif place.suffix.lower() in IMAGE_SUFFIXES and place.is_file():
        return [str(place)]
    elif place.is_file():
        return _read_list(place, root)
    else:
        found = []
        for match in glob.iglob(str(place), recursive=True):
            found += list_images(Path(match), root) if os.path.isdir(match) else [match]
    return _only_images(found)


def usable_source(spec: DataSpec, split: str) -> SplitSource:
    """Where a split comes from; InputError if it is not in the YAML or not on disk."""
    if split not in spec.splits:
        raise InputError(f"{spec.path}: there is no key {split!r}; it names {', '.join(spec.splits)}")
    source = spec.splits[split]
    if source.missing:
        raise InputError(f"{spec.path}: {split}: {source.missing[0]!r} not found under {spec.root}")
    return source


class LabelPaths(Sequence[str]):
    """The label files of images, worked out when they are asked for."""

    def __init__(self, images: Sequence[str]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        """The label file of image i, or those of a slice."""
        return [label_path(image) for image in self.images[i]] if isinstance(i, slice) else label_path(self.images[i])


def _list_pairs(spec: DataSpec, source: SplitSource) -> tuple[Sequence[str], Sequence[str | LabelRows]]:
    """Image files of a split and, for each, its label file or its rows from the COCO JSON."""
    listed = [image for place in source.places for image in list_images(place, spec.root)]
    if source.annotations is None:
        _tell_repeats(spec, source, listed)
        images = TextTable.of(listed)
        return images, LabelPaths(images)
    return load_annotations(source.annotations, spec.names, listed, source.places)


def _tell_repeats(spec: DataSpec, source: SplitSource, listed: Sequence[str]) -> None:
    """Warn of images that lists or several places name more than once; they may be meant to weigh more."""
    if (len(source.places) > 1 or source.places[0].is_file()) and (repeats := len(listed) - len(set(listed))):
        LOGGER.warning(
            f"WARNING {spec.path}: {source.split}: {repeats} of {len(listed)} images are listed again and count each "
            "time; list each once unless that is meant"
        )


def _label_files(source: SplitSource, labels: Sequence[str | LabelRows]) -> Iterable[str]:
    return [str(source.annotations)] if source.annotations else map(str, labels)


def _only_images(files: Iterable[str]) -> list[str]:
    """Sorted images, no hidden files; an array beside an image of the same name is its cache and not listed."""
    kept = [
        file
        for file in files
        if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(file).startswith(".")
    ]
    if any(file.lower().endswith(".npy") for file in kept):
        images = {os.path.splitext(file)[0] for file in kept if not file.lower().endswith(".npy")}
        kept = [file for file in kept if not file.lower().endswith(".npy") or os.path.splitext(file)[0] not in images]
    return sorted(kept)


def _read_list(file: Path, root: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: neither an image nor a readable list of images ({error})") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    loose = (line for line in lines if not line.startswith("./") and not os.path.isabs(line))
    bases = (Path.cwd(), root, file.parent)
    tries = ((base, line) for line in itertools.islice(loose, LINES_TRIED) for base in bases)
    base = next((base for base, line in tries if (base / line).exists()), file.parent)
    absolute = (file.parent / line if line.startswith("./") else base / line for line in lines)
    return [os.path.normpath(path) for path in absolute]


def _cache_file(source: SplitSource, images: Sequence[str]) -> Path:
    """Beside the labels folder, list file or JSON that it sums up; sets of several places get a name of their own."""
    if source.annotations is not None:
        first = source.annotations
    elif len(source.places) == 1 and source.places[0].is_file():
        first = source.places[0]
    else:
        first = Path(label_path(images[0])).parent
    tag = "" if len(source.places) == 1 else f".{hashlib.sha256(repr(source.places).encode()).hexdigest()[:8]}"
    return first.with_name(f"{first.name if first.is_dir() else first.stem}{tag}.cache")


def verify_pairs(
    images: Sequence[str], labels: Sequence[str | LabelRows], num_classes: int, split: str, workers: int
) -> tuple[ImageIndex, Findings]:
    """Check all images. Threads serve as well as processes: decoding, which takes the time, frees the interpreter."""
    findings, parts = Findings(), []
    hidden = hidden_bar(len(images) >= PROGRESS_FROM)
    with (
        ThreadPoolExecutor(max(1, min(workers, os.cpu_count() or 1))) as pool,
        tqdm(desc=f"checking {split}", total=len(images), disable=hidden) as bar,
    ):
        for start in range(0, len(images), AT_A_TIME):  # results are objects, which a million of would fill memory
            chosen = slice(start, start + AT_A_TIME)
            results = []
            for result in pool.map(verify_image, images[chosen], labels[chosen], itertools.repeat(num_classes)):
                results.append(result)
                bar.update()
            parts.append(_collect(images[chosen], results, findings))
    return _join(parts), findings


@dataclass
class _Part:
    """Some images of an index as arrays: their paths, sizes, numbers of rows, and the rows."""

    paths: TextTable
    sizes_hw: np.ndarray
    counts: np.ndarray
    rows: np.ndarray
    polygons: PolygonTable | None


def _collect(images: Sequence[str], results: Sequence[Verified], findings: Findings) -> _Part:
    """The usable ones of some images; what was found is added to the findings."""
    for result in results:
        findings.messages += result.labels.messages
        findings.dropped += result.labels.dropped
        findings.clipped += result.labels.clipped
    usable = [(image, result) for image, result in zip(images, results, strict=True) if result.size_hw is not None]
    findings.images += len(usable)
    findings.corrupt += len(images) - len(usable)
    findings.backgrounds += sum(len(result.labels.rows) == 0 for _, result in usable)
    findings.unlabelled += sum(not result.labelled for _, result in usable)
    labels = [result.labels for _, result in usable]
    given = any(picture.polygons is not None for picture in labels)
    return _Part(
        paths=TextTable.of([image for image, _ in usable]),
        sizes_hw=np.array([result.size_hw for _, result in usable], np.int32).reshape(-1, 2),
        counts=np.array([len(picture.rows) for picture in labels], np.int64),
        rows=np.concatenate([np.zeros((0, 5), np.float32), *(picture.rows for picture in labels)]),
        polygons=_polygon_table(labels) if given else None,
    )


def _join(parts: Sequence[_Part]) -> ImageIndex:
    """The index of all parts; where one has polygons, box corners stand in for those of the others."""
    rows = np.concatenate([np.zeros((0, 5), np.float32), *(part.rows for part in parts)])
    polygons = None
    if any(part.polygons is not None for part in parts):
        polygons = PolygonTable.joined(
            [_polygon_table([LabelRows(part.rows)]) if part.polygons is None else part.polygons for part in parts]
        )
    return ImageIndex(
        paths=TextTable.joined([part.paths for part in parts]),
        sizes_hw=np.concatenate([np.zeros((0, 2), np.int32), *(part.sizes_hw for part in parts)]),
        offsets=offsets_of(itertools.chain.from_iterable(part.counts for part in parts)),
        classes=rows[:, 0].astype(np.int32),
        boxes_xywhn=np.ascontiguousarray(rows[:, 1:]),
        polygons=polygons,
    )


def _polygon_table(labels: Sequence[LabelRows]) -> PolygonTable:
    """Polygons of all rows, box corners standing in where a row has none."""
    table: Polygons = []
    for image in labels:
        given = image.polygons if image.polygons is not None else [[] for _ in image.rows]
        table += [rings or [box_corners(row[1:])] for rings, row in zip(given, image.rows, strict=True)]
    return PolygonTable.from_lists(table)


def box_corners(box_xywh: np.ndarray) -> np.ndarray:
    """(4,) center and size -> (4, 2) corners, clockwise from top left, in the same unit."""
    x, y, w, h = box_xywh
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) / 2
    return np.array([x, y], np.float32) + signs * np.array([w, h], np.float32)


def show_messages(messages: Sequence[str], *, verbose: bool) -> None:
    """Log what was found wrong with images and labels, the first few or all."""
    shown = messages if verbose else messages[:SHOWN_MESSAGES]
    for message in shown:
        LOGGER.warning(f"WARNING {message}")
    if len(shown) < len(messages):
        LOGGER.warning(f"WARNING ... and {len(messages) - len(shown)} more (--verbose lists all)")


def report_findings(split: str, index: ImageIndex, findings: Findings, *, verbose: bool) -> None:
    """Log the first problems, or all, and one line that sums a split up."""
    show_messages(findings.messages, verbose=verbose)
    LOGGER.info(
        f"{split}: {findings.images} images, {findings.backgrounds} without objects "
        f"({findings.unlabelled} without label file), {findings.corrupt} unusable; {index.num_objects} objects, "
        f"{findings.dropped} rows left out, {findings.clipped} boxes cut at the frame"
    )
