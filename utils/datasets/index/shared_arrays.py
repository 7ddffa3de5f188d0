"""Arrays in memory that processes share."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from itertools import pairwise
from multiprocessing import reduction
from typing import IO, Any, NamedTuple

import numpy as np

ALIGNMENT = 64  # bytes


class SharedMemory(mmap.mmap):
    """Read-only bytes that processes share: pickled for a worker, they refer to the same memory.

    They are a copy without a name. A mapping of the user's file would end the process if the file is truncated.

    Args:
        file: an unnamed file that holds the bytes, at least one.
    """

    file: IO[bytes]

    def __new__(cls, file: IO[bytes]) -> SharedMemory:
        file.flush()
        memory = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
        memory.file = file  # open as long as the memory is used
        return memory

    @classmethod
    def copy(cls, stream: IO[bytes]) -> SharedMemory:
        """Copy the rest of a stream; ValueError if there is none."""
        file = _open_unnamed_file()
        shutil.copyfileobj(stream, file, 1 << 20)
        return cls(file)

    def __reduce__(self) -> tuple[Any, ...]:
        if sys.platform == "win32":
            return SharedMemory.copy, (BytesIO(self[:]),)
        return _attach, (reduction.DupFd(self.file.fileno()),)

    def __deepcopy__(self, memo: object) -> SharedMemory:
        return self


def _attach(descriptor: Any) -> SharedMemory:
    return SharedMemory(os.fdopen(descriptor.detach(), "rb"))


def _open_unnamed_file() -> IO[bytes]:
    """A file in memory where the system has such files, else a temporary one."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("arrays"), "w+b")
    return tempfile.TemporaryFile()


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> SharedMemory:
    """Copy named arrays of numbers into shared memory: a line of JSON with their types and shapes, then their bytes."""
    file = _open_unnamed_file()
    header = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    file.write(json.dumps(header).encode() + b"\n")
    for array in arrays.values():
        file.write(bytes(-file.tell() % ALIGNMENT))
        file.write(np.ascontiguousarray(array).data)
    return SharedMemory(file)


def unpack_arrays(memory: SharedMemory) -> dict[str, np.ndarray]:
    """The arrays of `pack_arrays`, read-only and without a copy.

    Raises:
        ValueError: the memory was not written by `pack_arrays`.
    """
    position = memory.find(b"\n") + 1
    arrays = {}
    try:
        for name, (dtype, shape) in json.loads(memory[:position]).items():
            position += -position % ALIGNMENT
            arrays[name] = np.ndarray(shape, _parse_dtype(dtype), memory, position)
            position += arrays[name].nbytes
    except (AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not packed arrays: {error}") from error
    if position != len(memory):
        raise ValueError(f"{len(memory) - position} bytes after the arrays")
    return arrays


def _parse_dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.kind not in "biuf":
        raise ValueError(f"{text!r} is not a type of numbers")
    return dtype


class ArrayLocation(NamedTuple):
    """A whole array of `unpack_arrays`: the arguments of `np.ndarray`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    memory: SharedMemory
    offset: int

    @classmethod
    def find(cls, array: np.ndarray) -> ArrayLocation | None:
        """The location of an array; None if it is elsewhere, or a part of one."""
        memory = array.base
        if not isinstance(memory, SharedMemory):
            return None
        start = np.frombuffer(memory, np.uint8).ctypes.data
        return cls(array.shape, array.dtype, memory, array.ctypes.data - start)


class SharedArrays:
    """Base of dataclasses that pickle an array in shared memory as its location, so that processes share it."""

    def __getstate__(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {
            name: ArrayLocation.find(value) or value if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, np.ndarray(*value) if isinstance(value, ArrayLocation) else value)


@dataclass(frozen=True, eq=False)
class PathTable(SharedArrays, Sequence[str]):
    """A list of N paths in two arrays: worker processes share their memory, which they would copy for strings.

    Attributes:
        text: (B,) uint8, the bytes of all paths.
        offsets: (N+1,) int64, path i is text[offsets[i]:offsets[i + 1]].
    """

    text: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_paths(cls, paths: Sequence[str]) -> PathTable:
        """Encode paths; a table is returned unchanged."""
        if isinstance(paths, PathTable):
            return paths
        encoded = [os.fsencode(path) for path in paths]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: Any) -> Any:
        """Path i, or a list of paths for a slice."""
        numbers = range(len(self))[i]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return os.fsdecode(self.text[self.offsets[numbers] : self.offsets[numbers + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        text = self.text.data
        return (os.fsdecode(bytes(text[a:b])) for a, b in pairwise(self.offsets.tolist()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: np.ndarray) -> PathTable:
        """The table of the paths at the given indices."""
        return PathTable.from_paths([self[i] for i in indices])
