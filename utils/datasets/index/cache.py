"""Index cache: a verified split on disk, as plain arrays without pickled objects.

The first line of the file is the key of the split and the CRC-32 of what follows: `pack_arrays` of the index.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.files import atomic_write
from utils.core.logging import LOGGER
from utils.datasets.index.image_index import ImageIndex, PolygonTable
from utils.datasets.index.shared_arrays import PathTable, SharedMemory, pack_arrays, unpack_arrays

FORMAT = 6  # part of the key; raise it when the file layout or the checks change, so that older caches are rebuilt
MAX_HEAD = 256  # bytes of the first line: key and checksum
ARRAYS = ("sizes_hw", "offsets", "classes", "boxes_xywhn")  # of every index


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
    """The cached index, without class names and semantic masks; None if there is no valid cache for this key.

    It is a copy in shared memory, so that nothing that happens to the file later matters.
    """
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as stream:
            written_key, _, checksum = stream.readline(MAX_HEAD).decode("ascii").rstrip("\n").partition(" ")
            if written_key != key:
                return None
            memory = SharedMemory.copy(stream)
        return _unpack(memory) if checksum == _compute_checksum(memory) else None
    except (OSError, ValueError):
        return None  # e.g. a pickle that YOLOv5 wrote under the same name


def load_or_build(
    path: Path, key: str, build: Callable[[], tuple[ImageIndex, Findings]]
) -> tuple[ImageIndex, Findings]:
    """The cached index; if there is none, the built one, in shared memory and saved for the next time."""
    return load_cache(path, key) or save_cache(path, key, *build())


def save_cache(path: Path, key: str, index: ImageIndex, findings: Findings) -> tuple[ImageIndex, Findings]:
    """Write the cache atomically, or warn if that fails; returns the index in shared memory."""
    memory = _pack(index, findings)
    try:
        path.parent.stat()  # a missing folder is not created
        if path.is_symlink():  # only the name is ours, not the linked file
            path.unlink()
        with atomic_write(path) as work, open(work, "wb") as stream:
            stream.write(f"{key} {_compute_checksum(memory)}\n".encode())
            stream.write(memory)
    except OSError as error:
        LOGGER.warning(
            f"WARNING {path}: cannot be written ({error.strerror}); the data set will be verified again in every run"
        )
    return _unpack(memory)


def _compute_checksum(memory: SharedMemory) -> str:
    return f"{zlib.crc32(memory):08x}"


def _pack(index: ImageIndex, findings: Findings) -> SharedMemory:
    paths = PathTable.from_paths(index.paths)
    arrays = {
        "findings": np.frombuffer(json.dumps(asdict(findings)).encode(), np.uint8),
        "path_text": paths.text,
        "path_offsets": paths.offsets,
        **{name: getattr(index, name) for name in ARRAYS},
    }
    if index.polygons is not None:
        arrays |= vars(index.polygons)
    if index.pixels is not None:
        arrays["pixels"] = index.pixels
    return pack_arrays(arrays)


def _unpack(memory: SharedMemory) -> tuple[ImageIndex, Findings]:
    """The inverse of `_pack`; ValueError if the memory holds anything else."""
    arrays = unpack_arrays(memory)
    try:
        findings = _parse_findings(arrays.pop("findings").tobytes())
        paths = PathTable(arrays.pop("path_text"), arrays.pop("path_offsets"))
        polygons = None
        if "points" in arrays:
            polygons = PolygonTable(**{field.name: arrays.pop(field.name) for field in fields(PolygonTable)})
        values: dict[str, Any] = {name: arrays.pop(name) for name in ARRAYS}
        index = ImageIndex(paths, **values, polygons=polygons, pixels=arrays.pop("pixels", None))
        _check_index(index, paths)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an index: {error!r}") from error
    if arrays:
        raise ValueError(f"unknown arrays {sorted(arrays)}")
    return index, findings


def _parse_findings(text: bytes) -> Findings:
    try:
        findings = Findings(**json.loads(text))
    except RecursionError as error:
        raise ValueError("not findings") from error
    *counts, messages = vars(findings).values()
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("a count of the findings is not a number")
    if not isinstance(messages, list) or not all(isinstance(message, str) for message in messages):
        raise ValueError("the messages are not a list of texts")
    return findings


def _check_index(index: ImageIndex, paths: PathTable) -> None:
    """ValueError unless the arrays have their types and agree with one another."""
    images, objects = len(index.sizes_hw), len(index.classes)
    _check_offsets(paths.offsets, images, paths.text, "path_text")
    _check_array(paths.text, "path_text", np.uint8, (-1,))
    _check_array(index.sizes_hw, "sizes_hw", np.int32, (images, 2), minimum=1)
    _check_array(index.classes, "classes", np.int32, (objects,), minimum=0)
    _check_array(index.boxes_xywhn, "boxes_xywhn", np.float32, (objects, 4))
    _check_offsets(index.offsets, images, index.classes, "classes")
    if index.polygons is not None:
        points, ring_offsets, object_offsets = vars(index.polygons).values()
        _check_array(points, "points", np.float32, (-1, 2))
        _check_offsets(ring_offsets, len(ring_offsets) - 1, points, "points")
        _check_offsets(object_offsets, objects, ring_offsets[:-1], "rings")
    if index.pixels is not None:
        _check_array(index.pixels, "pixels", np.int64, (images, -1), minimum=0)


def _check_array(
    array: np.ndarray, name: str, dtype: type, shape: tuple[int, ...], *, minimum: float = -np.inf
) -> None:
    """ValueError for another type or shape (-1 is any length), or a value that is not finite or below the minimum."""
    same_shape = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not same_shape or not np.isfinite(array).all() or (array < minimum).any():
        raise ValueError(f"{name}: {array.dtype} {array.shape} is not {np.dtype(dtype)} {shape} of valid values")


def _check_offsets(offsets: np.ndarray, groups: int, members: np.ndarray, name: str) -> None:
    """ValueError unless the offsets divide all members into groups."""
    _check_array(offsets, f"offsets of {name}", np.int64, (groups + 1,))
    if offsets[0] != 0 or offsets[-1] != len(members) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"the offsets of {name} are not in order")
