"""Data set check with tables and plots: `python -m utils.datasets check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.config.datasets import CheckConfig
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.files import expand_user, make_run_folder
from utils.core.logging import LOGGER
from utils.core.script import EXIT_PROBLEM
from utils.datasets.classification import ClassificationDataset
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.cache import Findings
from utils.datasets.index.class_folders import is_class_data, list_class_folders, load_class_data, verify_class_split
from utils.datasets.index.data_yaml import DataSpec, load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import log_findings, verify_split
from utils.datasets.index.semantic_labels import add_mask_paths, log_semantic_findings, verify_semantic_split
from utils.datasets.loader import collate
from utils.datasets.tools.summary import (
    describe_damaged_images,
    describe_sizes,
    describe_unknown_classes,
    find_absent_classes,
    find_duplicate_images,
    format_class_table,
    format_pixel_table,
    get_box_sizes,
)
from utils.imaging.letterbox import letterbox
from utils.imaging.read import read_image
from utils.imaging.semantic_files import read_semantic_mask
from utils.ops.masks import ObjectMasks, rasterize
from utils.ops.semantic_masks import blend_semantic_mask
from utils.plots.batches import plot_batch, plot_captions
from utils.plots.datasets import plot_sizes
from utils.plots.labels import plot_labels

NUM_EXAMPLES, EXAMPLE_SIZE = 16, 480  # images of the example grid and their side in pixels


@dataclass
class LabelCheck:
    """Check of one kind of labels of a data set.

    Attributes:
        kind: "boxes" (with polygons), "classes" of whole images, or semantic "masks".
        spec: the data set.
        results: index and findings of each split.
    """

    kind: str
    spec: DataSpec
    results: dict[str, tuple[ImageIndex, Findings]]

    @property
    def indexes(self) -> dict[str, ImageIndex]:
        """The index of each split that has usable images."""
        names = self.spec.names
        return {split: replace(index, names=names) for split, (index, _) in self.results.items() if index.paths}


def run(config: CheckConfig) -> int:
    """Check every split; returns 1 if images or label rows cannot be used, else 0.

    Raises:
        InputError: the data set cannot be read at all, or lacks a requested split.
    """
    spec, kinds = load_data_set(config.data)
    checks = [check_labels(kind, spec, config) for kind in kinds]
    folder = make_run_folder(Path(config.project) / config.name, exist_ok=config.exist_ok)
    facts, warnings, messages = [], [], []
    for check in checks:
        _log_splits(check, verbose=config.verbose)
        facts += describe_contents(check)
        split_messages = [f"{split}: {message}" for split, (_, f) in check.results.items() for message in f.messages]
        unknown = describe_unknown_classes(split_messages, check.spec.names)
        absent = [] if check.kind == "masks" else find_absent_classes(check.indexes, check.spec.names)
        damaged = describe_damaged_images(split_messages)
        warnings += [line for line in (unknown, damaged, *absent, *find_duplicate_images(check.indexes)) if line]
        messages += split_messages
        if not config.noplots:
            draw_plots(check, folder)
    _write_report(list(dict.fromkeys(facts)), list(dict.fromkeys(warnings)), messages, folder)
    num_problems = _count_problems(checks)
    LOGGER.info(f"Results saved to {folder}")
    return EXIT_PROBLEM if num_problems else 0


def load_data_set(data: str) -> tuple[DataSpec, list[str]]:
    """Load a data set by data YAML, known name or folder; returns it with its kinds of labels."""
    if is_class_data(data) and not _find_single_yaml(data):
        return load_class_data(data), ["classes"]
    spec = load_spec(_find_single_yaml(data) or data)
    folders = [path for source in spec.splits.values() for path in source.paths]
    if all(path.is_dir() and set(list_class_folders(path)) >= set(spec.names.values()) for path in folders):
        return spec, ["classes"]
    kinds = ["boxes"] if spec.raw.get("names") is not None else []
    return spec, kinds + (["masks"] if spec.semantic_set or spec.semantic else [])


def _find_single_yaml(data: str) -> str:
    """The data YAML of a folder with exactly one YAML at its top, else ""."""
    files = sorted(expand_user(data).glob("*.yaml")) if expand_user(data).is_dir() else []
    return str(files[0]) if len(files) == 1 else ""


def check_labels(kind: str, spec: DataSpec, config: CheckConfig) -> LabelCheck:
    """Check one kind of labels in the requested splits, by default in those with images on disk."""
    if kind == "masks":
        spec = spec.semantic_set or spec
        assert spec.semantic is not None
        spec = replace(spec, names=dict(spec.semantic.classes.names))
    verify = {"boxes": verify_split, "classes": verify_class_split, "masks": verify_semantic_split}[kind]
    # the semantic part of a joint data set may lack a requested split
    requested = [split for split in config.splits if kind != "masks" or split in spec.splits]
    splits = _select_splits(spec, requested) if requested or not config.splits else []
    return LabelCheck(kind, spec, {split: verify(spec, split, config.workers) for split in splits})


def _select_splits(spec: DataSpec, requested: list[str]) -> list[str]:
    if unknown := [split for split in requested if split not in spec.splits]:
        raise InputError(f"--split {' '.join(unknown)}: {spec.path} has the splits {', '.join(spec.splits)}")
    available = [split for split, source in spec.splits.items() if not source.missing]
    for split in spec.splits.keys() - {*available, *requested}:
        LOGGER.warning(f"WARNING {split}: {spec.splits[split].missing[0]!r} not found under {spec.root}; skipped")
    return list(dict.fromkeys(requested)) or available


def _log_splits(check: LabelCheck, *, verbose: bool) -> None:
    """Log the first problems and a summary line of each split."""
    for split, (index, findings) in check.results.items():
        if check.kind == "masks":
            assert check.spec.semantic is not None
            log_semantic_findings(split, index, findings, check.spec.semantic, verbose=verbose)
        else:
            log_findings(split, index, findings, verbose=verbose)


def describe_contents(check: LabelCheck) -> list[str]:
    """Tables and lines about classes and sizes."""
    indexes = check.indexes
    if not indexes:
        return []
    format_table = format_pixel_table if check.kind == "masks" else format_class_table
    num_lines = 2 if check.kind == "boxes" else 1  # one on images, one on objects
    sizes = [line for split, index in indexes.items() for line in describe_sizes(split, index)[:num_lines]]
    return [format_table(indexes, check.spec.names), *sizes]


def _write_report(facts: list[str], warnings: list[str], messages: list[str], folder: Path) -> None:
    """Log the results and write summary.txt and problems.txt."""
    for line in facts:
        LOGGER.info(line)
    for line in warnings:
        LOGGER.warning(f"WARNING {line}")
    (folder / "summary.txt").write_text("".join(f"{line}\n" for line in (*facts, *warnings)), encoding="utf-8")
    if messages:
        (folder / "problems.txt").write_text("".join(f"{line}\n" for line in messages), encoding="utf-8")
        LOGGER.info(f"All {len(messages)} messages: {folder / 'problems.txt'}")


def _count_problems(checks: list[LabelCheck]) -> int:
    """Count and log the images and label rows that cannot be used."""
    findings = [item for check in checks for _, item in check.results.values()]
    images, rows = sum(item.corrupt for item in findings), sum(item.dropped for item in findings)
    if images or rows:
        LOGGER.warning(f"WARNING {images} images and {rows} label rows cannot be used")
    else:
        LOGGER.info("No problems found in images and labels")
    return images + rows


def draw_plots(check: LabelCheck, folder: Path) -> None:
    """Write sizes.png, and for each split labels.jpg, its correlogram and examples (images.jpg or masks.jpg)."""
    indexes = check.indexes
    if indexes and check.kind != "masks":
        plot_sizes(
            {split: index.sizes_hw[:, ::-1] for split, index in indexes.items()},
            {split: get_box_sizes(index) for split, index in indexes.items()},
            {split: np.diff(index.offsets) for split, index in indexes.items()},
            folder / "sizes.png",
        )
    for split, index in indexes.items():
        split_folder = folder / split
        split_folder.mkdir(exist_ok=True)
        numbers = np.unique(np.linspace(0, len(index) - 1, min(len(index), NUM_EXAMPLES)).astype(int))
        examples = index.subset(numbers)
        if check.kind == "masks":
            _draw_masks(add_mask_paths(examples, check.spec), check.spec, split_folder / "masks.jpg")
        elif check.kind == "classes":
            _draw_classes(examples, check.spec.names, split_folder / "images.jpg")
        else:
            plot_labels(index.classes, index.boxes_xywhn, check.spec.names, split_folder)
            _draw_boxes(examples, check.spec.names, split_folder / "images.jpg")


def _draw_boxes(index: ImageIndex, names: Mapping[int, str], file: Path) -> None:
    """Plot a grid of images with boxes and polygons."""
    dataset = DetectionDataset(index, imgsz=EXAMPLE_SIZE, hyp=Hyperparameters(), augment=False)
    samples = [dataset[i] for i in range(len(index))]
    batch = collate(samples)

    def get_masks(i: int) -> ObjectMasks:
        return rasterize(samples[i].polygons or [], (EXAMPLE_SIZE, EXAMPLE_SIZE))

    masks = get_masks if index.polygons is not None else None
    plot_batch(batch.images, batch.targets, batch.paths, names, file, masks=masks)


def _draw_classes(index: ImageIndex, names: Mapping[int, str], file: Path) -> None:
    """Plot a grid of images with their classes."""
    dataset = ClassificationDataset(index, imgsz=EXAMPLE_SIZE, augment=False)
    batch = collate([dataset[i] for i in range(len(index))])
    plot_captions(batch.images, [names[int(label)] for label in index.classes], file)


def _draw_masks(index: ImageIndex, spec: DataSpec, file: Path) -> None:
    """Plot a grid of images blended with their semantic masks."""
    assert spec.semantic is not None and index.semantic_masks is not None
    cells = []
    for path, mask_path in zip(index.paths, index.semantic_masks, strict=True):
        values = read_semantic_mask(mask_path)
        values = values if index.id_map is None else index.id_map[values]
        frame = blend_semantic_mask(read_image(path), values, spec.semantic.classes)
        cell, _ = letterbox(frame, (EXAMPLE_SIZE, EXAMPLE_SIZE))
        cells.append(np.moveaxis(cell[..., ::-1], -1, 0))
    plot_captions(np.stack(cells), [Path(path).name for path in index.paths], file)
