"""`python -m utils.datasets check`: what is wrong with a data set, what is in it, and plots of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils.config_datasets import CheckConfig
from utils.datasets.class_folders import class_folders, load_class_data, verify_class_split
from utils.datasets.classification import ClassificationDataset
from utils.datasets.detection import DetectionDataset
from utils.datasets.index import ImageIndex
from utils.datasets.index_cache import Findings
from utils.datasets.labels import report_findings, verify_split
from utils.datasets.loader import collate
from utils.datasets.spec import DataSpec, load_spec
from utils.datasets.statistics import (
    absent_classes,
    box_sides,
    class_table,
    repeated_pictures,
    size_lines,
    unknown_classes,
)
from utils.errors import InputError
from utils.files import expand_user, increment_path, make_run_folder
from utils.hyp import Hyperparameters
from utils.logging import LOGGER
from utils.masks import ObjectMasks, rasterise
from utils.plots.batches import plot_batch, plot_captions
from utils.plots.data_sets import plot_sizes
from utils.plots.labels import plot_labels
from utils.script import EXIT_PROBLEM

PICTURES, SIDE = 16, 480  # of the grid of examples


def run(config: CheckConfig) -> int:
    """Look at every split; 1 where pictures or label rows cannot be used, else 0.

    Raises:
        InputError: the set cannot be read at all, or lacks a split that was named.
    """
    spec, whole = load_any(config.data)
    splits = _chosen_splits(spec, config.splits)
    verify = verify_class_split if whole else verify_split
    found = {split: verify(spec, split, config.workers) for split in splits}
    folder = make_run_folder(increment_path(Path(config.project) / config.name, config.exist_ok))
    for split, (index, findings) in found.items():
        report_findings(split, index, findings, verbose=config.verbose)
    sets = {split: replace(index, names=spec.names) for split, (index, _) in found.items() if index.paths}
    problems = report(spec, sets, {split: findings for split, (_, findings) in found.items()}, folder)
    if not config.noplots:
        draw(sets, spec.names, folder, whole=whole)
    LOGGER.info(f"Results saved to {folder}")
    return EXIT_PROBLEM if problems else 0


def load_any(data: str) -> tuple[DataSpec, bool]:
    """A set by data YAML or folder, and whether its pictures have one class each, as folders of classes."""
    if expand_user(data).is_dir():
        return load_class_data(data), True
    spec = load_spec(data)
    places = [place for source in spec.splits.values() for place in source.places]
    whole = all(place.is_dir() and set(class_folders(place)) >= set(spec.names.values()) for place in places)
    return spec, whole


def _chosen_splits(spec: DataSpec, wanted: list[str]) -> list[str]:
    """The splits asked for, else those of the YAML whose pictures are there."""
    if unknown := [split for split in wanted if split not in spec.splits]:
        raise InputError(f"--split {' '.join(unknown)}: {spec.path} names {', '.join(spec.splits)}")
    there = [split for split, source in spec.splits.items() if not source.missing]
    for split in spec.splits.keys() - {*there, *wanted}:
        LOGGER.warning(f"WARNING {split}: {spec.splits[split].missing[0]!r} not found under {spec.root}; passed over")
    return list(dict.fromkeys(wanted)) or there


def report(spec: DataSpec, sets: Mapping[str, ImageIndex], findings: Mapping[str, Findings], folder: Path) -> int:
    """Log what is in the set and what to look at; all messages go to problems.txt. How many rows and pictures fail."""
    messages = [f"{split}: {message}" for split, found in findings.items() for message in found.messages]
    facts = [class_table(sets, spec.names)] if sets else []
    facts += [line for split, index in sets.items() for line in size_lines(split, index)]
    unknown = unknown_classes(messages, spec.names)
    doubts = [line for line in (unknown, *absent_classes(sets, spec.names), *repeated_pictures(sets)) if line]
    for line in facts:
        LOGGER.info(line)
    for line in doubts:
        LOGGER.warning(f"WARNING {line}")
    failed = sum(found.corrupt + found.dropped for found in findings.values())
    pictures = sum(found.corrupt for found in findings.values())
    if failed:
        LOGGER.warning(f"WARNING {pictures} pictures and {failed - pictures} label rows cannot be used")
    else:
        LOGGER.info("Nothing is wrong with pictures and labels")
    (folder / "summary.txt").write_text("".join(f"{line}\n" for line in (*facts, *doubts)), encoding="utf-8")
    if messages:
        (folder / "problems.txt").write_text("".join(f"{line}\n" for line in messages), encoding="utf-8")
        LOGGER.info(f"All {len(messages)} messages: {folder / 'problems.txt'}")
    return failed


def draw(sets: Mapping[str, ImageIndex], names: Mapping[int, str], folder: Path, *, whole: bool) -> None:
    """sizes.png of all splits; of each, labels.jpg with its correlogram and pictures.jpg with examples."""
    if not sets:
        return
    plot_sizes(
        {split: index.sizes_hw[:, ::-1] for split, index in sets.items()},
        {split: box_sides(index) for split, index in sets.items()},
        {split: np.diff(index.offsets) for split, index in sets.items()},
        folder / "sizes.png",
    )
    for split, index in sets.items():
        (folder / split).mkdir(exist_ok=True)
        if not whole:
            plot_labels(index.classes, index.boxes_xywhn, names, folder / split)
        chosen = np.unique(np.linspace(0, len(index) - 1, min(len(index), PICTURES)).astype(int))
        _draw_examples(index.subset(chosen), names, folder / split / "pictures.jpg", whole=whole)


def _draw_examples(index: ImageIndex, names: Mapping[int, str], file: Path, *, whole: bool) -> None:
    """A grid of pictures with their labels."""
    if whole:
        crops = ClassificationDataset(index, imgsz=SIDE, augment=False)
        batch = collate([crops[i] for i in range(len(index))])
        plot_captions(batch.images, [names[int(label)] for label in index.classes], file)
        return
    fitted = DetectionDataset(index, imgsz=SIDE, hyp=Hyperparameters(), augment=False)
    samples = [fitted[i] for i in range(len(index))]
    batch = collate(samples)

    def masks(i: int) -> ObjectMasks:
        return rasterise(samples[i].polygons or [], (SIDE, SIDE))

    outlines = masks if index.polygons is not None else None
    plot_batch(batch.images, batch.targets, batch.paths, names, file, masks=outlines)
