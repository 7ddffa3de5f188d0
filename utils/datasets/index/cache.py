"""Index cache: a verified split on disk, as plain arrays without pickled objects."""

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
from utils.datasets.index.shared_arrays import PathTable, map_arrays, write_arrays

FORMAT = 5  # part of the key; raise it when the file layout or the checks change, so that older caches are rebuilt


@dataclass
class Findings:
    """Statistics and problems from verifying a split.

    Attributes:
        images: usable images.
        backgrounds: usable images without objects.
        unlabelled: usable images without a label file.
        corrupt: unusable images.
        dropped: invalid label rows.
        clipped: boxes clipped to the image.
        messages: problems, one line each, with file and line.
    """

    images: int = 0
    backgrounds: int = 0
    unlabelled: int = 0
    corrupt: int = 0
    dropped: int = 0
    clipped: int = 0
    messages: list[str] = field(default_factory=list)


def compute_fingerprint(files: Iterable[str | None], *settings: object) -> str:
    """Hash of the settings and of the files' names, sizes and modification times; missing files are allowed."""
    digest = hashlib.sha256(repr((FORMAT, *settings)).encode())
    for file in files:
        try:
            status = os.stat(file) if file is not None else None  # noqa: PTH116 (three times faster than a Path)
        except (OSError, ValueError):
            status = None
        line = f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n" if status else f"{file}\0-\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def load_cache(path: Path, key: str) -> tuple[ImageIndex, Findings] | None:
    """The cached index, without class names and semantic masks; None if there is no valid cache for this key."""
    try:
        arrays = map_arrays(path)
        about = json.loads(arrays["about"].tobytes())
        if about["key"] != key:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # e.g. a pickle that YOLOv5 wrote under the same name
    polygons = None
    if "points" in arrays:
        polygons = PolygonTable(arrays["points"], arrays["ring_offsets"], arrays["object_offsets"])
    index = ImageIndex(
        PathTable(arrays["paths"]),
        arrays["sizes_hw"],
        arrays["offsets"],
        arrays["classes"],
        arrays["boxes_xywhn"],
        polygons=polygons,
        pixels=arrays.get("pixels"),
    )
    return index, Findings(**about["findings"])


def save_and_map(path: Path, key: str, index: ImageIndex, findings: Findings) -> tuple[ImageIndex, Findings]:
    """Write the cache and return the index memory-mapped from it; the index itself if the cache cannot be written."""
    save_cache(path, key, index, findings)
    return load_cache(path, key) or (index, findings)


def save_cache(path: Path, key: str, index: ImageIndex, findings: Findings) -> None:
    """Write the cache atomically; warn if the folder cannot be written.

    A folder without write permission is respected even when running as root.
    """
    if not path.parent.is_dir():
        return _warn(path, "no such folder")
    if not path.parent.stat().st_mode & 0o222:
        return _warn(path, "the folder is read-only")
    try:
        with atomic_write(path) as work, open(work, "wb") as stream:
            write_arrays(stream, _to_arrays(key, index, findings))
    except OSError as error:
        return _warn(path, error.strerror or str(error))


def _warn(path: Path, reason: str) -> None:
    LOGGER.warning(f"WARNING {path}: cannot be written ({reason}); the data set will be verified again in every run")


def _to_arrays(key: str, index: ImageIndex, findings: Findings) -> dict[str, np.ndarray]:
    about = {"key": key, "findings": asdict(findings)}
    arrays = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "paths": PathTable.from_paths(index.paths).encoded,
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
