"""Arrays that several processes share: kept in one file that each maps into its memory, and texts as such arrays."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

MAGIC = b"openyolov5 arrays\n"
AT_A_TIME = 1 << 14  # texts that are taken out of a table together
ALIGNMENT = 64  # bytes; processors read aligned numbers faster


def write_arrays(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays of numbers, uncompressed.

    The file is the line `openyolov5 arrays`, the length of the header as 8 bytes (least first), the header as JSON,
    {name: [dtype, shape, offset]}, and the arrays; offsets are bytes from the first multiple of 64 after the header.
    """
    described: dict[str, tuple[str, tuple[int, ...], int]] = {}
    end = 0
    for name, array in arrays.items():
        described[name] = (array.dtype.str, array.shape, end)
        end = _aligned(end + array.nbytes)
    header = json.dumps(described).encode()
    stream.write(MAGIC + len(header).to_bytes(8, "little") + header)
    start = _aligned(stream.tell())
    for array, (_, _, offset) in zip(arrays.values(), described.values(), strict=True):
        stream.write(bytes(start + offset - stream.tell()))
        stream.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")


def map_arrays(file: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file, read-only and mapped: what is not looked at is not read, processes share what is.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else, or is cut off.
    """
    with open(file, "rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{file}: no file of arrays")
        length = int.from_bytes(stream.read(8), "little")
        total = os.fstat(stream.fileno()).st_size
        if length > total:
            raise ValueError(f"{file}: cut off")
        described = json.loads(stream.read(length))
        start = _aligned(stream.tell())
    arrays: dict[str, np.ndarray] = {}
    for name, (kind, shape, offset) in described.items():
        dtype, shape = np.dtype(str(kind)), tuple(int(side) for side in shape)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if dtype.hasobject or start + offset + size > total:
            raise ValueError(f"{file}: {name}: not an array of numbers, or cut off")
        arrays[name] = (
            np.asarray(np.memmap(file, dtype, "r", start + offset, shape)) if size else np.zeros(shape, dtype)
        )
    return arrays


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


class Shared:
    """A dataclass whose mapped arrays travel to a new process as the file's name and are mapped there again."""

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: _as_reference(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value.open() if isinstance(value, _Reference) else value)


@dataclass(frozen=True)
class _Reference:
    """Where a mapped array is."""

    file: str
    dtype: str
    offset: int
    shape: tuple[int, ...]

    def open(self) -> np.ndarray:
        """The array, mapped."""
        return np.asarray(np.memmap(self.file, np.dtype(self.dtype), "r", self.offset, self.shape))


def _as_reference(value: Any) -> Any:
    """A whole mapped array as its place; anything else as it is."""
    whole = getattr(value, "base", None)
    if not isinstance(whole, np.memmap) or whole.shape != value.shape or whole.dtype != value.dtype:
        return value
    return _Reference(str(whole.filename), value.dtype.str, whole.offset, value.shape)


@dataclass(frozen=True, eq=False)
class TextTable(Shared, Sequence[str]):
    """Many texts without a Python object for each: processes would copy the pages that hold such objects.

    Attributes:
        characters: (C,) uint8, all texts one behind the other, UTF-8 (names of files that are not: as the system does).
        offsets: (N+1,) int64, text i is characters[offsets[i]:offsets[i + 1]].
    """

    characters: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> TextTable:
        """A table of the given texts."""
        if isinstance(texts, TextTable):
            return texts
        encoded = [os.fsencode(text) for text in texts]
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def joined(cls, tables: Sequence[TextTable]) -> TextTable:
        """The texts of all tables, one table after the other."""
        sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(table.offsets) for table in tables)])
        return cls(np.concatenate([np.zeros(0, np.uint8), *(table.characters for table in tables)]), np.cumsum(sizes))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: Any) -> Any:
        """Text i, or a list of those of a slice."""
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i = i % len(self)
        return os.fsdecode(self.characters[self.offsets[i] : self.offsets[i + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_A_TIME):
            places = self.offsets[start : start + AT_A_TIME + 1].tolist()
            part = self.characters[places[0] : places[-1]].tobytes()
            for first, last in itertools.pairwise(places):
                yield os.fsdecode(part[first - places[0] : last - places[0]])

    def __eq__(self, other: object) -> bool:
        """Whether the other has the same texts, as a table or a list."""
        if isinstance(other, TextTable):
            same = np.array_equal(self.offsets, other.offsets)
            return same and np.array_equal(self.characters, other.characters)
        return isinstance(other, list | tuple) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def take(self, chosen: np.ndarray) -> TextTable:
        """The table of the chosen texts, in their order."""
        sizes = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        places = np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(self.offsets[chosen] - offsets[:-1], sizes)
        return TextTable(self.characters[places], offsets)
