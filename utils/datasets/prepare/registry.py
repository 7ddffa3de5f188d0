"""Ways to make a data set appear on disk: the names that `download: builtin:NAME` may use, and plain URLs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.prepare.archives import fetch_data_set
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

Preparer = Callable[[Path, Mapping[str, Any]], None]  # root of the data set, the YAML as read
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


DRAWN = ("shapes", "shapes-cls")  # there as a whole or not at all
UNFINISHED = Path(".fetched") / "unfinished"  # below the root while archives are unpacked and converted


def prepare_data(download: Any, root: Path, raw: Mapping[str, Any], *, source: Path) -> None:
    """Do what a data YAML's key `download` says: URLs of archives or the name of a preparer, alone or in a list.

    All entries are looked at before the first is followed; none is ever executed as code.

    Raises:
        InputError: any other text, or what goes wrong on the way.
    """
    steps = [_step(entry, raw, source) for entry in (download if isinstance(download, list) else [download])]
    for step in steps:
        step(root)


def is_unfinished(root: Path) -> bool:
    """Whether a preparer was stopped below `root`: images may be there, labels not yet."""
    return (root / UNFINISHED).exists()


def _noted(prepare: Preparer, root: Path, raw: Mapping[str, Any]) -> None:
    """Run a preparer with a note below the root that a later run will find if this one is stopped.

    Where nothing has been unpacked yet the note goes, so that a set put in place by hand is taken as it is.
    """
    note = root / UNFINISHED
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError as error:
        raise InputError(f"{root}: {error.strerror}; set path or YOLOv5_DATASETS_DIR to a writable folder") from error
    try:
        prepare(root, raw)
    except InputError:
        if not list(root.rglob(".fetched/*.done")):
            note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)


def _step(entry: Any, raw: Mapping[str, Any], source: Path) -> Callable[[Path], None]:
    """What one entry of `download` asks for, as a function of the root."""
    text = str(entry).strip()
    prefix, _, name = text.partition(":")
    if prefix == "builtin" and name in DRAWN:
        return lambda root: PREPARERS[name](root, raw)
    if prefix == "builtin" and name in PREPARERS:
        return lambda root: _noted(PREPARERS[name], root, raw)
    if prefix in ("http", "https") and len(text.split()) == 1:
        return lambda root: fetch_data_set(text, root)
    shown = text.splitlines()[0][:60] if text else ""
    ways = ", ".join(f"builtin:{name}" for name in sorted(PREPARERS))
    raise InputError(
        f"{source}: download: {shown!r} is neither the URL of an archive nor one of {ways}; commands and code in a "
        "data YAML are never executed: put the data in place by hand, or name a URL"
    )
