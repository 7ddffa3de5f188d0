"""`python -m utils.datasets check`: what is wrong with a data set, what is in it, and plots of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.config.datasets import CheckConfig
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.files import expand_user, increment_path, make_run_folder
from utils.core.logging import LOGGER
from utils.core.script import EXIT_PROBLEM
from utils.datasets.classification import ClassificationDataset
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.cache import Findings
from utils.datasets.index.class_folders import class_folders, is_class_data, load_class_data, verify_class_split
from utils.datasets.index.data_yaml import DataSpec, load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import report_findings, verify_split
from utils.datasets.index.semantic_labels import report_maps, verify_map_split, with_maps
from utils.datasets.loader import collate
from utils.datasets.tools.statistics import (
    absent_classes,
    box_sides,
    class_table,
    pixel_table,
    repeated_images,
    size_lines,
    unknown_classes,
)
from utils.imaging.letterbox import letterbox
from utils.imaging.read import read_image
from utils.imaging.semantic_files import read_semantic_mask
from utils.ops.masks import ObjectMasks, rasterize
from utils.ops.semantic_masks import blended
from utils.plots.batches import plot_batch, plot_captions
from utils.plots.data_sets import plot_sizes
from utils.plots.labels import plot_labels

IMAGES, SIDE = 16, 480  # of the grid of examples


@dataclass
class View:
    """One kind of labels of a set.

    Attributes:
        kind: "boxes" (outlines too), "classes" of whole images or class "maps".
        spec: the set.
        found: index and findings of each split.
    """

    kind: str
    spec: DataSpec
    found: dict[str, tuple[ImageIndex, Findings]]

    @property
    def sets(self) -> dict[str, ImageIndex]:
        """The splits with a usable image."""
        return {split: replace(index, names=self.spec.names) for split, (index, _) in self.found.items() if index.paths}


def run(config: CheckConfig) -> int:
    """Look at every split; 1 where images or label rows cannot be used, else 0.

    Raises:
        InputError: the set cannot be read at all, or lacks a split that was named.
    """
    spec, kinds = load_any(config.data)
    views = [look_at(kind, spec, config) for kind in kinds]
    folder = make_run_folder(increment_path(Path(config.project) / config.name, config.exist_ok))
    facts, doubts, messages = [], [], []
    for view in views:
        _summarize(view, verbose=config.verbose)
        facts += facts_of(view)
        found = [f"{split}: {message}" for split, (_, f) in view.found.items() for message in f.messages]
        doubts += [line for line in (unknown_classes(found, view.spec.names), *doubts_of(view)) if line]
        messages += found
        if not config.noplots:
            draw(view, folder)
    _report(list(dict.fromkeys(facts)), list(dict.fromkeys(doubts)), messages, folder)
    problems = _count_problems(views)
    LOGGER.info(f"Results saved to {folder}")
    return EXIT_PROBLEM if problems else 0


def load_any(data: str) -> tuple[DataSpec, list[str]]:
    """A set by data YAML, known name or folder, and the kinds of labels it has."""
    if is_class_data(data) and not _only_yaml(data):
        return load_class_data(data), ["classes"]
    spec = load_spec(_only_yaml(data) or data)
    places = [place for source in spec.splits.values() for place in source.places]
    if all(place.is_dir() and set(class_folders(place)) >= set(spec.names.values()) for place in places):
        return spec, ["classes"]
    kinds = ["boxes"] if spec.raw.get("names") is not None else []
    return spec, kinds + (["maps"] if spec.semantic_set or spec.semantic else [])


def _only_yaml(data: str) -> str:
    """The data YAML of a folder that has exactly one at its top, as text; "" for other folders and files."""
    found = sorted(expand_user(data).glob("*.yaml")) if expand_user(data).is_dir() else []
    return str(found[0]) if len(found) == 1 else ""


def look_at(kind: str, spec: DataSpec, config: CheckConfig) -> View:
    """Check one kind of labels in the splits asked for, else in those whose images are there."""
    if kind == "maps":
        spec = spec.semantic_set or spec
        assert spec.semantic is not None
        spec = replace(spec, names=dict(spec.semantic.classes.names))
    verify = {"boxes": verify_split, "classes": verify_class_split, "maps": verify_map_split}[kind]
    wanted = [split for split in config.splits if kind != "maps" or split in spec.splits]  # a set of maps may lack it
    chosen = _chosen(spec, wanted) if wanted or not config.splits else []
    return View(kind, spec, {split: verify(spec, split, config.workers) for split in chosen})


def _chosen(spec: DataSpec, wanted: list[str]) -> list[str]:
    if unknown := [split for split in wanted if split not in spec.splits]:
        raise InputError(f"--split {' '.join(unknown)}: {spec.path} names {', '.join(spec.splits)}")
    there = [split for split, source in spec.splits.items() if not source.missing]
    for split in spec.splits.keys() - {*there, *wanted}:
        LOGGER.warning(f"WARNING {split}: {spec.splits[split].missing[0]!r} not found under {spec.root}; passed over")
    return list(dict.fromkeys(wanted)) or there


def _summarize(view: View, *, verbose: bool) -> None:
    """A line for each split, after the first problems."""
    for split, (index, findings) in view.found.items():
        if view.kind == "maps":
            assert view.spec.semantic is not None
            report_maps(split, index, findings, view.spec.semantic, verbose=verbose)
        else:
            report_findings(split, index, findings, verbose=verbose)


def facts_of(view: View) -> list[str]:
    """Tables and lines about classes and sizes."""
    sets = view.sets
    if not sets:
        return []
    table = pixel_table if view.kind == "maps" else class_table
    count = 2 if view.kind == "boxes" else 1  # of images, and of objects
    sizes = [line for split, index in sets.items() for line in size_lines(split, index)[:count]]
    return [table(sets, view.spec.names), *sizes]


def doubts_of(view: View) -> list[str]:
    """What deserves a look, though training would go on."""
    absent = [] if view.kind == "maps" else absent_classes(view.sets, view.spec.names)
    return [*absent, *repeated_images(view.sets)]


def _report(facts: list[str], doubts: list[str], messages: list[str], folder: Path) -> None:
    """Log and write what was found."""
    for line in facts:
        LOGGER.info(line)
    for line in doubts:
        LOGGER.warning(f"WARNING {line}")
    (folder / "summary.txt").write_text("".join(f"{line}\n" for line in (*facts, *doubts)), encoding="utf-8")
    if messages:
        (folder / "problems.txt").write_text("".join(f"{line}\n" for line in messages), encoding="utf-8")
        LOGGER.info(f"All {len(messages)} messages: {folder / 'problems.txt'}")


def _count_problems(views: list[View]) -> int:
    """How many images and rows fail, said in a line."""
    findings = [found for view in views for _, found in view.found.values()]
    images, rows = sum(found.corrupt for found in findings), sum(found.dropped for found in findings)
    if images or rows:
        LOGGER.warning(f"WARNING {images} images and {rows} label rows cannot be used")
    else:
        LOGGER.info("Nothing is wrong with images and labels")
    return images + rows


# -- plots ------------------------------------------------------------------------------------------------------------


def draw(view: View, folder: Path) -> None:
    """sizes.png of all splits; of each, labels.jpg, its correlogram and examples in images.jpg or maps.jpg."""
    sets = view.sets
    if sets and view.kind != "maps":
        plot_sizes(
            {split: index.sizes_hw[:, ::-1] for split, index in sets.items()},
            {split: box_sides(index) for split, index in sets.items()},
            {split: np.diff(index.offsets) for split, index in sets.items()},
            folder / "sizes.png",
        )
    for split, index in sets.items():
        place = folder / split
        place.mkdir(exist_ok=True)
        chosen = np.unique(np.linspace(0, len(index) - 1, min(len(index), IMAGES)).astype(int))
        examples = index.subset(chosen)
        if view.kind == "maps":
            _draw_maps(with_maps(examples, view.spec), view.spec, place / "maps.jpg")
        elif view.kind == "classes":
            _draw_classes(examples, view.spec.names, place / "images.jpg")
        else:
            plot_labels(index.classes, index.boxes_xywhn, view.spec.names, place)
            _draw_boxes(examples, view.spec.names, place / "images.jpg")


def _draw_boxes(index: ImageIndex, names: Mapping[int, str], file: Path) -> None:
    """A grid of images with their boxes and outlines."""
    fitted = DetectionDataset(index, imgsz=SIDE, hyp=Hyperparameters(), augment=False)
    samples = [fitted[i] for i in range(len(index))]
    batch = collate(samples)

    def masks(i: int) -> ObjectMasks:
        return rasterize(samples[i].polygons or [], (SIDE, SIDE))

    outlines = masks if index.polygons is not None else None
    plot_batch(batch.images, batch.targets, batch.paths, names, file, masks=outlines)


def _draw_classes(index: ImageIndex, names: Mapping[int, str], file: Path) -> None:
    """A grid of images with their classes."""
    fitted = ClassificationDataset(index, imgsz=SIDE, augment=False)
    batch = collate([fitted[i] for i in range(len(index))])
    plot_captions(batch.images, [names[int(label)] for label in index.classes], file)


def _draw_maps(index: ImageIndex, spec: DataSpec, file: Path) -> None:
    """A grid of images under the colors of their semantic masks."""
    assert spec.semantic is not None and index.semantic_masks is not None
    cells = []
    for path, semantic_mask in zip(index.paths, index.semantic_masks, strict=True):
        values = read_semantic_mask(semantic_mask)
        values = values if index.id_map is None else index.id_map[values]
        cell, _ = letterbox(blended(read_image(path), values, spec.semantic.classes), (SIDE, SIDE))
        cells.append(np.moveaxis(cell[..., ::-1], -1, 0))
    plot_captions(np.stack(cells), [Path(path).name for path in index.paths], file)
