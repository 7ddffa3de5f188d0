"""Registry of data set preparers (`download: builtin:NAME`) and downloads by URL."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.datasets.prepare.archives import FETCHED, UNFINISHED, datasets_folder, download_dataset
from utils.datasets.prepare.argoverse import prepare_argoverse
from utils.datasets.prepare.coco import prepare_coco
from utils.datasets.prepare.global_wheat import prepare_global_wheat
from utils.datasets.prepare.imagenet import prepare_imagenet
from utils.datasets.prepare.objects365 import prepare_objects365
from utils.datasets.prepare.shapes import prepare_shapes
from utils.datasets.prepare.shapes_classes import prepare_shapes_classes
from utils.datasets.prepare.sku110k import prepare_sku110k
from utils.datasets.prepare.visdrone import prepare_visdrone
from utils.datasets.prepare.voc import prepare_voc
from utils.datasets.prepare.xview import prepare_xview

# Creates a data set below a root from its parsed data YAML: `names` are its classes, `source` overrides the official
# address. Raises InputError if archives are missing, cannot be downloaded or have unexpected content.
Preparer = Callable[[Path, Mapping[str, Any]], None]
PREPARERS: dict[str, Preparer] = {
    "argoverse": prepare_argoverse,
    "coco": prepare_coco,
    "global-wheat": prepare_global_wheat,
    "imagenet": prepare_imagenet,
    "objects365": prepare_objects365,
    "shapes": prepare_shapes,
    "shapes-cls": prepare_shapes_classes,
    "sku-110k": prepare_sku110k,
    "visdrone": prepare_visdrone,
    "voc": prepare_voc,
    "xview": prepare_xview,
}
LOCAL = ("imagenet", "shapes", "shapes-cls", "xview")  # without a download
HARMLESS = (".DS_Store", ".gitignore", ".gitkeep")  # hidden files in folders of data
GENERATED = ("shapes", "shapes-cls")  # written in one step, complete or not at all


def prepare_data(download: Any, root: Path, raw: Mapping[str, Any], *, source: Path) -> None:
    """Follow the key `download` of a data YAML: an archive URL, `builtin:NAME`, or a list of those.

    All entries are checked before the first one runs; none is executed as code.

    Raises:
        InputError: an invalid entry, or a failed download or preparation.
    """
    entries = download if isinstance(download, list) else [download]
    steps = [_parse_step(entry, raw, source) for entry in entries]
    if not all(str(entry).strip().removeprefix("builtin:") in LOCAL for entry in entries):
        _check_root(root, source)
    for step in steps:
        step(root)


def _check_root(root: Path, source: Path) -> None:
    """InputError if a download would write among settings: below a hidden folder, or beside hidden files.

    The data YAML chooses the root, and other programs read what they find in such places.
    """
    usual = (Path(root.anchor), source.parent.parent, datasets_folder(), ROOT.parent, Path.cwd())
    below = [root.relative_to(place).parts for place in usual if root.is_relative_to(place)]
    if all(any(name.startswith(".") for name in names) for names in below):
        raise InputError(f"{source}: path: {root} is in a hidden folder; download the data yourself, or change path")
    if root.is_dir() and not (root / FETCHED).is_dir():
        hidden = next((entry for entry in root.iterdir() if entry.name.startswith(".")), None)
        if hidden is not None and hidden.name not in HARMLESS:
            raise InputError(f"{source}: path: {root} has hidden files ({hidden.name}); change path to a data folder")


def is_unfinished(root: Path) -> bool:
    """Whether a preparer was interrupted below `root`, so that labels may be missing."""
    return os.path.exists(root / UNFINISHED)  # noqa: PTH110 (pathlib raises an error for an impossible name)


def _run_with_marker(prepare: Preparer, root: Path, raw: Mapping[str, Any]) -> None:
    """Run a preparer with a marker file below the root, which shows later runs that it was interrupted.

    If nothing has been unpacked yet, the marker is removed, so that files put in place by hand count as a complete set.
    """
    marker = root / UNFINISHED
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise InputError(f"{root}: {error.strerror}; set path or YOLOv5_DATASETS_DIR to a writable folder") from error
    try:
        prepare(root, raw)
    except InputError:
        if not list(root.rglob(".fetched/*.done")):
            marker.unlink(missing_ok=True)
        raise
    marker.unlink(missing_ok=True)


def _parse_step(entry: Any, raw: Mapping[str, Any], source: Path) -> Callable[[Path], None]:
    """Turn one entry of `download` into a function of the root."""
    text = str(entry).strip()
    prefix, _, name = text.partition(":")
    if prefix == "builtin" and name in PREPARERS:
        prepare = PREPARERS[name] if name in GENERATED else partial(_run_with_marker, PREPARERS[name])
        return lambda root: prepare(root, raw)
    if prefix in ("http", "https") and len(text.split()) == 1:
        return lambda root: download_dataset(text, root)
    excerpt = text.splitlines()[0][:60] if text else ""
    builtins = ", ".join(f"builtin:{name}" for name in sorted(PREPARERS))
    raise InputError(
        f"{source}: download: {excerpt!r} is neither the URL of an archive nor one of {builtins}; commands and code in "
        "a data YAML are never executed: put the data in place yourself, or use a URL"
    )
