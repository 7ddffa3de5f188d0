"""Global Wheat Head Detection 2020 (doi.org/10.34133/2020/3521852)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.index.label_files import get_source_url
from utils.datasets.prepare.archives import download_archive

IMAGES = "https://zenodo.org/record/4298502/files"
LABELS = "https://github.com/ultralytics/yolov5/releases/download/v1.0"
SITES = (
    *("arvalis_1", "arvalis_2", "arvalis_3", "ethz_1", "rres_1", "inrae_1", "usask_1"),
    *("utokyo_1", "utokyo_2", "nau_1", "uq_1"),
)


def prepare_global_wheat(root: Path, raw: Mapping[str, Any]) -> None:
    """Download the set into `root`: images/<site>/, labels/<site>/, and the original files in annotations/."""
    download_archive(f"{get_source_url(raw, IMAGES)}/global-wheat-codalab-official.zip", root)
    download_archive(f"{get_source_url(raw, LABELS)}/GlobalWheat2020_labels.zip", root)
    nested = root / "GlobalWheat2020" / "labels"  # the archive may wrap the labels in a folder of the set's name
    if nested.is_dir() and not (root / "labels").exists():
        nested.replace(root / "labels")
    for kind in ("images", "labels", "annotations"):
        (root / kind).mkdir(exist_ok=True)
    for site in SITES:
        for folder in _find_unpacked(root, site):
            folder.replace(root / "images" / site)
        for file in _find_unpacked(root, f"{site}.json"):
            file.replace(root / "annotations" / file.name)
        for kind in ("images", "labels"):
            if not (root / kind / site).is_dir():
                raise InputError(f"{root / kind / site}: missing in the archives; remove {root} and try again")


def _find_unpacked(root: Path, name: str) -> list[Path]:
    """Find a site's unpacked folder or file, at the top or one folder below."""
    candidates = [root / name, *(folder / name for folder in sorted(root.iterdir()) if folder.is_dir())]
    targets = {root / kind / name for kind in ("images", "labels", "annotations")}
    return [path for path in candidates if path.exists() and path not in targets][:1]
