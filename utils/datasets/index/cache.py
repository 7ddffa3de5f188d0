"""The result of verifying a split, kept on disk as plain arrays: nothing in it can run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from utils.core.files import atomic_write
from utils.core.logging import LOGGER
from utils.datasets.index.image_index import ImageIndex, PolygonTable
from utils.datasets.index.mapped import TextTable, map_arrays, write_arrays

FORMAT = 4  # 4: outlines of one box are no repeats; 3: mapped arrays; earlier: holes of COCO's run-length codes


@dataclass
class Findings:
    """What the verification of a split found.

    Attributes:
        images: usable ones. backgrounds: of these, without any object. unlabelled: without a label file.
        corrupt: images left out. dropped, clipped: label rows left out, or cut at the frame.
        messages: one line each, with file and line.
    """

    images: int = 0
    backgrounds: int = 0
    unlabelled: int = 0
    corrupt: int = 0
    dropped: int = 0
    clipped: int = 0
    messages: list[str] = field(default_factory=list)


def fingerprint(files: Iterable[str | None], *settings: object) -> str:
    """Hash of names, sizes and times of the files, which may be missing, and of the settings."""
    digest = hashlib.sha256(repr((FORMAT, *settings)).encode())
    for file in files:
        try:
            status = os.stat(file) if file is not None else None  # noqa: PTH116 (a Path would cost three times as much)
        except (OSError, ValueError):
            status = None
        about = f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n" if status else f"{file}\0-\n"
        digest.update(about.encode(errors="surrogateescape"))
    return digest.hexdigest()


def load_cache(path: Path, key: str) -> tuple[ImageIndex, Findings] | None:
    """The index kept in `path`, without names and semantic masks; None if missing or of other files or formats."""
    try:
        parts = map_arrays(path)
        about = json.loads(parts["about"].tobytes())
        if about["format"] != FORMAT or about["key"] != key:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # among them the pickles that YOLOv5 keeps under the same name
    polygons = None
    if "points" in parts:
        polygons = PolygonTable(parts["points"], parts["ring_offsets"], parts["object_offsets"])
    index = ImageIndex(
        TextTable(parts["paths"], parts["path_offsets"]),
        parts["sizes_hw"],
        parts["offsets"],
        parts["classes"],
        parts["boxes_xywhn"],
        polygons=polygons,
        pixels=parts.get("pixels"),
    )
    return index, Findings(**about["findings"])


def keep(path: Path, key: str, found: tuple[ImageIndex, Findings]) -> tuple[ImageIndex, Findings]:
    """Write the cache and give back what was found, its arrays mapped to the file where that could be written."""
    save_cache(path, key, *found)
    return load_cache(path, key) or found


def save_cache(path: Path, key: str, index: ImageIndex, findings: Findings) -> None:
    """Write the cache under a temporary name and rename it; a folder that cannot be written only costs a warning.

    A folder without any write permission is left alone even where the system would let us in (root).
    """
    if not path.parent.is_dir():
        return _warn(path, "there is no such folder")
    if not path.parent.stat().st_mode & 0o222:
        return _warn(path, "the folder is read-only")
    try:
        with atomic_write(path) as work, open(work, "wb") as stream:
            write_arrays(stream, _as_arrays(key, index, findings))
    except OSError as error:
        return _warn(path, error.strerror or str(error))


def _warn(path: Path, reason: str) -> None:
    LOGGER.warning(f"WARNING {path}: cannot be written ({reason}); the data are checked anew in each run")


def _as_arrays(key: str, index: ImageIndex, findings: Findings) -> dict[str, np.ndarray]:
    about = {"format": FORMAT, "key": key, "findings": asdict(findings)}
    paths = TextTable.of(index.paths)
    arrays = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "paths": paths.characters,
        "path_offsets": paths.offsets,
        "sizes_hw": index.sizes_hw,
        "offsets": index.offsets,
        "classes": index.classes,
        "boxes_xywhn": index.boxes_xywhn,
    }
    table = index.polygons
    if table is not None:
        arrays |= {
            "points": table.points,
            "ring_offsets": table.ring_offsets,
            "object_offsets": table.object_offsets,
        }
    return arrays if index.pixels is None else arrays | {"pixels": index.pixels}
