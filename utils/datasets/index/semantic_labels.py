"""Index of a split with semantic masks: list its images, verify their masks, cache the result."""

# Paths are strings here: for a hundred thousand of them os.path is several times faster than pathlib.
# ruff: noqa: PTH110, PTH120, PTH122

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.cache import Findings, compute_fingerprint, load_or_build
from utils.datasets.index.data_yaml import DataSpec, SplitSource
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import get_split_source, list_split_files, log_messages, run_verification
from utils.datasets.index.semantic_yaml import SemanticSpec
from utils.datasets.index.verify import VerifiedImage, verify_image
from utils.imaging.read import ImageError
from utils.imaging.semantic_files import read_semantic_mask

MAX_VALUES = 6  # in messages


def load_semantic_index(spec: DataSpec, split: str, *, verbose: bool = False, workers: int = 8) -> ImageIndex:
    """The images of a split that have a valid semantic mask, without boxes; logs problems and a one-line summary.

    Args:
        spec: of a joint data set, its semantic part is used.
        verbose: log every problem instead of the first few.
        workers: threads that verify.

    Raises:
        InputError: the data YAML has no semantic masks, the split does not exist, or none of its images is usable.
    """
    if spec.semantic_set is not None:
        spec = spec.semantic_set
    if spec.semantic is None:
        raise InputError(f"{spec.path}: key 'semantic' is missing; it holds the class names and where the masks are")
    index, findings = verify_semantic_split(spec, split, workers)
    log_semantic_findings(split, index, findings, spec.semantic, verbose=verbose)
    if not index.paths:
        first = get_mask_path(spec, list_split_images(spec, get_split_source(spec, split))[0])
        raise InputError(
            f"{spec.path}: {split}: none of the {findings.corrupt} images is usable, see the warnings above; expected "
            f"the first semantic mask in {first}"
        )
    return add_mask_paths(index, spec)


def verify_semantic_split(spec: DataSpec, split: str, workers: int = 8) -> tuple[ImageIndex, Findings]:
    """The images of a split that have a valid semantic mask, from the cache if it is valid.

    Args:
        spec: a data set whose semantic masks belong to its own images.

    Raises:
        InputError: the split does not exist, or has no images.
    """
    assert spec.semantic is not None
    source = get_split_source(spec, split)
    images = list_split_images(spec, source)
    if not images:
        raise InputError(f"{spec.path}: {split}: no images under {', '.join(map(str, source.paths))}")
    masks = [get_mask_path(spec, image) for image in images]
    valid = spec.semantic.valid.tobytes(), None if spec.semantic.id_map is None else spec.semantic.id_map.tobytes()
    key = compute_fingerprint([*images, *masks], "semantic masks", valid, spec.semantic.num_classes)
    verify = partial(verify_masks, images, masks, spec.semantic, split, workers)
    return load_or_build(get_cache_file(masks, source), key, verify)


def add_mask_paths(index: ImageIndex, spec: DataSpec) -> ImageIndex:
    """The index with the paths of its semantic masks, their `id_map`, and the names of their classes."""
    assert spec.semantic is not None
    masks = [get_mask_path(spec, image) for image in index.paths]
    return replace(index, names=dict(spec.semantic.classes.names), semantic_masks=masks, id_map=spec.semantic.id_map)


def add_semantic_masks(index: ImageIndex, semantic: ImageIndex) -> ImageIndex:
    """The images that have both boxes and a semantic mask.

    Args:
        index: images with boxes; its order and names are kept.
        semantic: index of the same split from `load_semantic_index`.
    """
    assert semantic.semantic_masks is not None
    numbers = {path: number for number, path in enumerate(semantic.paths)}
    images = [i for i, path in enumerate(index.paths) if path in numbers]
    masks = [numbers[index.paths[i]] for i in images]
    return replace(
        index.subset(images),
        semantic_masks=[semantic.semantic_masks[number] for number in masks],
        id_map=semantic.id_map,
        pixels=None if semantic.pixels is None else semantic.pixels[masks],
    )


def list_split_images(spec: DataSpec, source: SplitSource) -> list[str]:
    """Image files of a split. VOC list files have names without suffix, of images in JPEGImages/."""
    assert spec.semantic is not None
    listed = list_split_files(spec, source)
    if spec.semantic.rule.images != "JPEGImages" or all(os.path.splitext(image)[1] for image in listed):
        return listed
    folder = next((top for top in source.paths[0].parents if (top / "JPEGImages").is_dir()), spec.root)
    names = (Path(image) for image in listed)
    return [str(name if name.suffix else folder / "JPEGImages" / f"{name.name}.jpg") for name in names]


def get_mask_path(spec: DataSpec, image: str) -> str:
    """The semantic mask file of an image.

    Raises:
        InputError: the image is outside the folders of the layout.
    """
    assert spec.semantic is not None
    path = spec.semantic.rule.mask_path(image)
    if path is None:
        raise InputError(
            f"{spec.path}: semantic: no mask path for {image}: not below a folder {spec.semantic.rule.images}; set "
            "images and masks, or layout, under semantic"
        )
    return path


def get_cache_file(masks: Sequence[str], source: SplitSource) -> Path:
    """Cache file next to the common folder of the masks; its name has a hash unless the split is one folder."""
    folder = Path(os.path.commonpath([os.path.dirname(masks[0]), os.path.dirname(masks[-1])]))
    whole = len(source.paths) == 1 and source.paths[0].is_dir()
    tag = "" if whole else f".{hashlib.sha256(repr(source.paths).encode()).hexdigest()[:8]}"
    return folder.parent / f"{folder.name}{tag}.cache"


def verify_masks(
    images: Sequence[str], masks: Sequence[str], semantic: SemanticSpec, split: str, workers: int
) -> tuple[ImageIndex, Findings]:
    """Verify images and their semantic masks."""
    results, damage = run_verification(partial(verify_mask, semantic=semantic), images, masks, split, workers)
    usable = [
        (image, verified.size_hw, pixels)
        for image, (verified, pixels) in zip(images, results, strict=True)
        if pixels is not None
    ]
    findings = Findings(
        images=len(usable),
        corrupt=len(images) - len(usable),
        messages=[*damage, *(message for verified, _ in results for message in verified.labels.messages)],
    )
    index = ImageIndex(
        paths=[image for image, _, _ in usable],
        sizes_hw=np.array([size_hw for _, size_hw, _ in usable], np.int32).reshape(-1, 2),
        offsets=np.zeros(len(usable) + 1, np.int64),
        classes=np.zeros(0, np.int32),
        boxes_xywhn=np.zeros((0, 4), np.float32),
        pixels=np.array([pixels for _, _, pixels in usable], np.int64).reshape(-1, semantic.num_classes),
    )
    return index, findings


def verify_mask(image: str, path: str, semantic: SemanticSpec) -> tuple[VerifiedImage, np.ndarray | None]:
    """Verify an image and its semantic mask; returns the image and `count_pixels`, None if either is unusable."""
    verified = verify_image(image, None, 0)
    if verified.size_hw is not None:
        try:
            return verified, count_pixels(path, verified.size_hw, semantic)
        except ImageError as error:
            verified.labels.messages.append(f"{error}; {image} skipped for semantic segmentation")
    return verified, None


def count_pixels(path: str, size_hw: tuple[int, int], semantic: SemanticSpec) -> np.ndarray:
    """(num_classes,) pixels of each class in the semantic mask of an image of this size.

    Raises:
        ImageError: the mask is missing, unreadable or of another size, or has a value that means nothing.
    """
    if not os.path.exists(path):
        raise ImageError(path, "no such semantic mask")
    values = read_semantic_mask(path)
    if values.shape != size_hw:
        height, width = values.shape
        raise ImageError(path, f"{width}x{height} pixels, but its image has {size_hw[1]}x{size_hw[0]}")
    counts = np.bincount(values.ravel(), minlength=256)
    invalid = np.flatnonzero((counts > 0) & ~semantic.valid).tolist()
    if invalid:
        shown = ", ".join(map(str, invalid[:MAX_VALUES])) + (", ..." if len(invalid) > MAX_VALUES else "")
        ignored = next(value for value in np.flatnonzero(semantic.valid).tolist() if value >= semantic.num_classes)
        raise ImageError(
            path,
            f"value {shown} is neither a class (0-{semantic.num_classes - 1}) nor ignored ({ignored}); "
            "fix the mask, or map the value to a class with id_map",
        )
    if semantic.id_map is not None:
        counts = np.bincount(semantic.id_map, weights=counts, minlength=256).astype(np.int64)
    return counts[: semantic.num_classes]


def log_semantic_findings(
    split: str, index: ImageIndex, findings: Findings, semantic: SemanticSpec, *, verbose: bool
) -> None:
    """Log the problems of a split, the first few or all, and a one-line summary."""
    log_messages(findings.messages, verbose=verbose)
    assert index.pixels is not None
    totals = index.pixels.sum(axis=0)
    missing = [semantic.classes.names[c] for c in np.flatnonzero(totals == 0).tolist()]
    area = int(np.prod(index.sizes_hw.astype(np.int64), axis=1).sum())
    share = f"{totals.sum() / area:.1%} of pixels labelled" if area else "no pixels labelled"
    LOGGER.info(
        f"{split}: {findings.images} images with semantic masks, {findings.corrupt} corrupt; {share}"
        + (f"; no pixels of {', '.join(missing)}" if missing and area else "")
    )
