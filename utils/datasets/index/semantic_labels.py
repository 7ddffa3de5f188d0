"""From a split's images and their semantic masks to a verified `ImageIndex`, remembered in a cache beside the maps."""

# Paths stay text here: os.path handles a hundred thousand of them several times faster than pathlib.
# ruff: noqa: PTH110, PTH120, PTH122

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.cache import Findings, fingerprint, keep, load_cache
from utils.datasets.index.data_yaml import DataSpec, SplitSource
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import PROGRESS_FROM, list_images, show_messages, usable_source
from utils.datasets.index.semantic_yaml import SemanticSpec
from utils.datasets.index.verify import verify_image
from utils.imaging.read import ImageError
from utils.imaging.semantic_files import read_semantic_mask

SHOWN_VALUES = 6


@dataclass(frozen=True)
class CheckedMap:
    """An image and its semantic mask after the checks.

    Attributes:
        size_hw: of both, None if they cannot be used.
        pixels: (num_classes,) of each class.
        messages: what was found wrong.
    """

    size_hw: tuple[int, int] | None
    pixels: np.ndarray
    messages: list[str]


def load_semantic_index(spec: DataSpec, split: str, *, verbose: bool = False, workers: int = 8) -> ImageIndex:
    """The images of a split that have a good semantic mask, without boxes; of the other set where the YAML names two.

    Problems are logged, with a summary in one line; images without a good semantic mask are left out.

    Args:
        verbose: list every problem instead of the first few.
        workers: threads for the checks.

    Raises:
        InputError: no semantic masks are described, the split is not there, or no image of it can be used.
    """
    if spec.semantic_set is not None:
        spec = spec.semantic_set
    if spec.semantic is None:
        raise InputError(f"{spec.path}: key 'semantic' is missing: the names of the classes and where masks are")
    index, findings = verify_map_split(spec, split, workers)
    report_maps(split, index, findings, spec.semantic, verbose=verbose)
    if not index.paths:
        first = mask_of(spec, list_split_images(spec, usable_source(spec, split))[0])
        raise InputError(
            f"{spec.path}: {split}: none of the {findings.corrupt} images can be used, see the warnings above; the "
            f"first semantic mask was expected in {first}"
        )
    return with_maps(index, spec)


def verify_map_split(spec: DataSpec, split: str, workers: int = 8) -> tuple[ImageIndex, Findings]:
    """The images of a split that have a good semantic mask, checked now or in an earlier run, and what was found.

    Args:
        spec: a set whose semantic masks are of its own images.

    Raises:
        InputError: the split is not there, or has no images.
    """
    assert spec.semantic is not None
    source = usable_source(spec, split)
    images = list_split_images(spec, source)
    if not images:
        raise InputError(f"{spec.path}: {split}: no images under {', '.join(map(str, source.places))}")
    maps = [mask_of(spec, image) for image in images]
    valid = spec.semantic.valid.tobytes(), None if spec.semantic.id_map is None else spec.semantic.id_map.tobytes()
    key = fingerprint([*images, *maps], "semantic masks", valid, spec.semantic.num_classes)
    cache_file = cache_file_of(maps, source)
    known = load_cache(cache_file, key)
    if known is None:
        known = keep(cache_file, key, verify_maps(images, maps, spec.semantic, split, workers))
    return known


def with_maps(index: ImageIndex, spec: DataSpec) -> ImageIndex:
    """The index with the files of its semantic masks, how to read them, and the names of their classes."""
    assert spec.semantic is not None
    maps = [mask_of(spec, image) for image in index.paths]
    return replace(index, names=dict(spec.semantic.classes.names), semantic_masks=maps, id_map=spec.semantic.id_map)


def add_semantic_masks(index: ImageIndex, maps: ImageIndex) -> ImageIndex:
    """The images with boxes that have a good semantic mask too, with both.

    Args:
        index: images with boxes; its order and names stay.
        maps: what `load_semantic_index` gave for the same split.
    """
    assert maps.semantic_masks is not None
    number_of = {path: number for number, path in enumerate(maps.paths)}
    kept = [number for number, path in enumerate(index.paths) if path in number_of]
    theirs = [number_of[index.paths[number]] for number in kept]
    return replace(
        index.subset(kept),
        semantic_masks=[maps.semantic_masks[number] for number in theirs],
        id_map=maps.id_map,
        pixels=None if maps.pixels is None else maps.pixels[theirs],
    )


def list_split_images(spec: DataSpec, source: SplitSource) -> list[str]:
    """Image files of a split. Lists of VOC hold bare names: of the images in JPEGImages/."""
    assert spec.semantic is not None
    listed = [image for place in source.places for image in list_images(place, spec.root)]
    if spec.semantic.rule.images != "JPEGImages" or all(os.path.splitext(image)[1] for image in listed):
        return listed
    folder = next((top for top in source.places[0].parents if (top / "JPEGImages").is_dir()), spec.root)
    names = (Path(image) for image in listed)
    return [str(name if name.suffix else folder / "JPEGImages" / f"{name.name}.jpg") for name in names]


def mask_of(spec: DataSpec, image: str) -> str:
    """The semantic mask's file of an image.

    Raises:
        InputError: the image lies elsewhere than the layout says.
    """
    assert spec.semantic is not None
    path = spec.semantic.rule.mask_path(image)
    if path is None:
        raise InputError(
            f"{spec.path}: semantic: the semantic mask of {image} cannot be told: expected an image below a folder "
            f"{spec.semantic.rule.images}; set images and masks, or layout, under semantic"
        )
    return path


def cache_file_of(maps: Sequence[str], source: SplitSource) -> Path:
    """Beside the folder that holds all semantic masks of a split; sets of several places get a name of their own."""
    folder = Path(os.path.commonpath([os.path.dirname(maps[0]), os.path.dirname(maps[-1])]))
    whole = len(source.places) == 1 and source.places[0].is_dir()
    tag = "" if whole else f".{hashlib.sha256(repr(source.places).encode()).hexdigest()[:8]}"
    return folder.with_name(f"{folder.name}{tag}.cache")


def verify_maps(
    images: Sequence[str], maps: Sequence[str], semantic: SemanticSpec, split: str, workers: int
) -> tuple[ImageIndex, Findings]:
    """Check all images and their semantic masks, in threads: decoding, which takes the time, frees the interpreter."""
    with ThreadPoolExecutor(max(1, min(workers, os.cpu_count() or 1))) as pool:
        results = pool.map(verify_map, images, maps, itertools.repeat(semantic))
        bar = tqdm(results, desc=f"checking {split}", total=len(images), disable=len(images) < PROGRESS_FROM)
        checked = list(bar)
    usable = [n for n, result in enumerate(checked) if result.size_hw is not None]
    findings = Findings(
        images=len(usable),
        corrupt=len(images) - len(usable),
        messages=[message for result in checked for message in result.messages],
    )
    index = ImageIndex(
        paths=[images[n] for n in usable],
        sizes_hw=np.array([checked[n].size_hw for n in usable], np.int32).reshape(-1, 2),
        offsets=np.zeros(len(usable) + 1, np.int64),
        classes=np.zeros(0, np.int32),
        boxes_xywhn=np.zeros((0, 4), np.float32),
        pixels=np.array([checked[n].pixels for n in usable], np.int64).reshape(-1, semantic.num_classes),
    )
    return index, findings


def verify_map(image: str, path: str, semantic: SemanticSpec) -> CheckedMap:
    """Check an image and its semantic mask. Raises nothing for bad input."""
    picture = verify_image(image, None, 0)
    messages = list(picture.labels.messages)
    none = np.zeros(semantic.num_classes, np.int64)
    if picture.size_hw is None:
        return CheckedMap(None, none, messages)
    if not os.path.exists(path):
        return CheckedMap(
            None, none, [*messages, f"{path}: no such semantic mask; {image} is not used for semantic masks"]
        )
    try:
        values = read_semantic_mask(path)
    except ImageError as error:
        return CheckedMap(None, none, [*messages, f"{error}; {image} is not used for semantic masks"])
    problem = problem_of(values, picture.size_hw, semantic)
    if problem is not None:
        return CheckedMap(None, none, [*messages, f"{path}: {problem}; {image} is not used for semantic masks"])
    counts = np.bincount(values.ravel(), minlength=256)
    if semantic.id_map is not None:
        counts = np.bincount(semantic.id_map, weights=counts, minlength=256).astype(np.int64)
    return CheckedMap(picture.size_hw, counts[: semantic.num_classes], messages)


def problem_of(values: np.ndarray, size_hw: tuple[int, int], semantic: SemanticSpec) -> str | None:
    """Why a semantic mask (H, W) cannot be that of an image of this size, or None."""
    if values.shape != size_hw:
        height, width = values.shape
        return f"{width}x{height} pixels, its image has {size_hw[1]}x{size_hw[0]}"
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    wrong = found[~semantic.valid[found]].tolist()
    if not wrong:
        return None
    shown = ", ".join(map(str, wrong[:SHOWN_VALUES])) + (", ..." if len(wrong) > SHOWN_VALUES else "")
    ignored = [value for value in np.flatnonzero(semantic.valid).tolist() if value >= semantic.num_classes]
    return (
        f"value {shown} is no class (0-{semantic.num_classes - 1}) and not ignored ({ignored[0]}); "
        "mend it, or say by an id_map what it stands for"
    )


def report_maps(split: str, index: ImageIndex, findings: Findings, semantic: SemanticSpec, *, verbose: bool) -> None:
    """Log the first problems, or all, and one line that sums a split up."""
    show_messages(findings.messages, verbose=verbose)
    assert index.pixels is not None
    totals = index.pixels.sum(axis=0)
    absent = [semantic.classes.names[c] for c in np.flatnonzero(totals == 0).tolist()]
    area = int(np.prod(index.sizes_hw.astype(np.int64), axis=1).sum())
    share = f"{totals.sum() / area:.1%} of their pixels labelled" if area else "nothing labelled"
    LOGGER.info(
        f"{split}: {findings.images} images with semantic masks, {findings.corrupt} unusable; {share}"
        + (f"; no pixel of {', '.join(absent)}" if absent and area else "")
    )
