"""Global Wheat Head Detection 2020 (doi.org/10.34133/2020/3521852): images of its publisher, labels of a release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.label_files import source_of
from utils.datasets.prepare.archives import fetch_and_unpack

IMAGES = "https://zenodo.org/record/4298502/files"
LABELS = "https://github.com/ultralytics/yolov5/releases/download/v1.0"
SITES = (
    *("arvalis_1", "arvalis_2", "arvalis_3", "ethz_1", "rres_1", "inrae_1", "usask_1"),
    *("utokyo_1", "utokyo_2", "nau_1", "uq_1"),
)


def prepare_global_wheat(root: Path, raw: Mapping[str, Any]) -> None:
    """Fetch the set below `root`: images/<site>/, labels/<site>/, and annotations/ with the publisher's own files.

    Args:
        raw: the data YAML; `source`, if given, replaces both official addresses.

    Raises:
        InputError: an archive cannot be fetched, or lacks a site.
    """
    fetch_and_unpack(f"{source_of(raw, IMAGES)}/global-wheat-codalab-official.zip", root)
    fetch_and_unpack(f"{source_of(raw, LABELS)}/GlobalWheat2020_labels.zip", root)
    inside = root / "GlobalWheat2020" / "labels"  # label files may come with the set's folder around them
    if inside.is_dir() and not (root / "labels").exists():
        inside.replace(root / "labels")
    for kind in ("images", "labels", "annotations"):
        (root / kind).mkdir(exist_ok=True)
    for site in SITES:
        for found in _unpacked(root, site):
            found.replace(root / "images" / site)
        for found in _unpacked(root, f"{site}.json"):
            found.replace(root / "annotations" / found.name)
        for kind in ("images", "labels"):
            if not (root / kind / site).is_dir():
                raise InputError(f"{root / kind / site}: missing in the archives; remove {root} and try again")
    counts = {kind: sum(1 for file in (root / kind).rglob("*") if file.is_file()) for kind in ("images", "labels")}
    LOGGER.info(f"{len(SITES)} sites: {counts['images']} images, {counts['labels']} label files")


def _unpacked(root: Path, name: str) -> list[Path]:
    """Where a site's folder or file came out of the archive: at its top or one folder below."""
    places = [root / name, *(folder / name for folder in sorted(root.iterdir()) if folder.is_dir())]
    kept = {root / kind / name for kind in ("images", "labels", "annotations")}
    return [place for place in places if place.exists() and place not in kept][:1]
