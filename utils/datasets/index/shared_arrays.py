"""Arrays that processes share through a memory-mapped file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

ALIGNMENT = 64  # bytes


def write_arrays(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays one after another in NumPy's .npy format, the list of their names first."""
    names = np.frombuffer(json.dumps(list(arrays)).encode(), np.uint8)
    for array in (names, *arrays.values()):
        stream.write(bytes(-stream.tell() % ALIGNMENT))
        np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def map_arrays(file: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file, read-only and memory-mapped.

    Raises:
        OSError: the file cannot be read.
        ValueError: it was not written by `write_arrays`, or is truncated.
    """
    arrays = []
    with open(file, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        while stream.seek(-stream.tell() % ALIGNMENT, os.SEEK_CUR) < size:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            if dtype.hasobject:
                raise ValueError(f"{file}: not an array of numbers")
            arrays.append(MappedArray(str(file), dtype, "r", stream.tell(), shape).open())
            stream.seek(arrays[-1].nbytes, os.SEEK_CUR)
    names = json.loads(arrays[0].tobytes()) if arrays else []
    return dict(zip(names, arrays[1:], strict=True))


class MappedArray(NamedTuple):
    """Location of an array in a file: the arguments of `np.memmap`."""

    filename: str
    dtype: np.dtype[Any]
    mode: str
    offset: int
    shape: tuple[int, ...]

    def open(self) -> np.ndarray:
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.asarray(np.memmap(*self))  # type: ignore[call-overload]


class SharedArrays:
    """Base of dataclasses that pickle a memory-mapped array as its location, so that a spawned process maps it too."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: _to_location(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value.open() if isinstance(value, MappedArray) else value)


def _to_location(value: Any) -> Any:
    """The location of a whole mapped array; anything else unchanged."""
    memmap = getattr(value, "base", None)
    if not isinstance(memmap, np.memmap) or memmap.shape != value.shape or memmap.dtype != value.dtype:
        return value
    return MappedArray(str(memmap.filename), value.dtype, "r", memmap.offset, value.shape)


@dataclass(frozen=True, eq=False)
class PathTable(SharedArrays, Sequence[str]):
    """A list of paths in one array: worker processes share its memory, which they would copy for a list of strings.

    Attributes:
        encoded: (N,) bytes of fixed width.
    """

    encoded: np.ndarray

    @classmethod
    def from_paths(cls, paths: Sequence[str]) -> PathTable:
        """Encode paths; a table is returned unchanged."""
        return (
            paths if isinstance(paths, PathTable) else cls(np.array([os.fsencode(path) for path in paths], np.bytes_))
        )

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, i: Any) -> Any:
        """Path i, or a list of paths for a slice."""
        return [*map(os.fsdecode, self.encoded[i])] if isinstance(i, slice) else os.fsdecode(self.encoded[i])

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self.encoded)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: np.ndarray) -> PathTable:
        """The table of the paths at the given indices."""
        return PathTable(self.encoded[indices])
