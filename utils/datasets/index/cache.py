"""Index cache: a verified split on disk, as plain arrays without pickled objects."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

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
        about = json.loads(arrays.pop("about").tobytes())
        if about["key"] != key:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # e.g. a pickle that YOLOv5 wrote under the same name
    values: dict[str, Any] = {**arrays, "paths": PathTable(arrays["paths"])}
    if "points" in values:
        values["polygons"] = PolygonTable(**{f.name: values.pop(f.name) for f in fields(PolygonTable)})
    return ImageIndex(**values), Findings(**about["findings"])


def load_or_build(
    path: Path, key: str, build: Callable[[], tuple[ImageIndex, Findings]]
) -> tuple[ImageIndex, Findings]:
    """The cached index; if there is none, the built one, memory-mapped from its cache if that can be written."""
    cached = load_cache(path, key)
    if cached is not None:
        return cached
    index, findings = build()
    save_cache(path, key, index, findings)
    return load_cache(path, key) or (index, findings)


def save_cache(path: Path, key: str, index: ImageIndex, findings: Findings) -> None:
    """Write the cache atomically; warn if that fails."""
    about = {"key": key, "findings": asdict(findings)}
    arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    arrays["paths"] = PathTable.from_paths(index.paths).encoded
    values = vars(index) if index.polygons is None else vars(index) | vars(index.polygons)
    arrays |= {name: array for name, array in values.items() if isinstance(array, np.ndarray)}
    try:
        path.parent.stat()  # a missing folder is not created
        with atomic_write(path) as work, open(work, "wb") as stream:
            write_arrays(stream, arrays)
    except OSError as error:
        LOGGER.warning(
            f"WARNING {path}: cannot be written ({error.strerror}); the data set will be verified again in every run"
        )
