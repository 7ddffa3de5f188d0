"""The two file formats of `torch.save`: zip archives, and one stream of pickles and bytes up to PyTorch 1.5.

Tensors are views of storages that are in the file. Sizes are checked before memory is allocated: a small file cannot
ask for much. Of an archive the checksum of every member that is read is verified; `torch.load` does not do that.
"""

from __future__ import annotations

import math
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from models.pickle_reader import Global, PickleReader, list_globals
from models.pickled_values import CALLS, CONSTANTS, MAX_ITEMS, Record
from utils.core.limits import check_limit

PICKLE, ORDER = "data.pkl", "byteorder"
STREAM_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of the old format
STREAM_VERSION = 1001
MAX_PICKLE_BYTES = 16 * 2**20  # a network has about 100 kB
MAX_UNPACKED = 4  # times the size of the file; torch.save does not compress
MAX_SHARED = 2  # bytes of all tensors per byte of storage
SPARE_BYTES = 256 * 2**20  # allowed beyond these factors
MAX_DIMS = 64
CHUNK_BYTES = 2**20
OWN_PACKAGES = ("models.", "utils.")


@dataclass(frozen=True)
class Storage:
    """The bytes of a tensor storage and the type of its elements."""

    content: torch.UntypedStorage
    dtype: torch.dtype


class CheckpointFile(ABC):
    """The pickle of a checkpoint, and the tensors that it refers to.

    Args:
        path: the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._storage_bytes = self._tensor_bytes = self._items = 0

    @abstractmethod
    def read(self, addresses: Iterable[str]) -> Any:
        """The content, with stand-ins for arrays.

        Args:
            addresses: allowed classes; their objects are returned as `Record`.
        """

    @abstractmethod
    def _open_storage(self, key: str, dtype: torch.dtype, count: int) -> torch.UntypedStorage:
        """The storage of `count` numbers with this name."""

    def _read_pickle(self, content: bytes, addresses: Iterable[str] = ()) -> tuple[Any, int]:
        """The value of the pickle at the start of `content`, and its size in bytes."""
        table = self._build_table(addresses, content)
        reader = PickleReader(content, table, load_external=self._load_external, count_items=self._count_items)
        return reader.read(), reader.size

    def _build_table(self, addresses: Iterable[str], content: bytes) -> dict[str, Any]:
        """The globals that a pickle may refer to."""
        calls: dict[str, Callable[..., Any]] = {
            **CALLS,
            **{address: lambda *_, address=address: Record(address) for address in addresses},
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": self._rebuild_typed_tensor,
        }
        table: dict[str, Any] = {**CONSTANTS, **{name: Global(name, call) for name, call in calls.items()}}
        for name in set(list_globals(content)) - table.keys():
            if (own := _find_own_address(name)) in table:
                table[name] = table[own]
        return table

    def _load_external(self, identifier: Any) -> Any:
        """The value of a persistent id: ("storage", type, key, device, number of elements, view)."""
        kind, dtype, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_count(count):
            raise ValueError("a reference to something else than a storage")
        if any(part is not None for part in view):
            raise ValueError("a view of a storage")
        if key not in self._storages:
            self._storages[key] = self._open_storage(key, dtype, count)
            self._storage_bytes += self._storages[key].nbytes()
        storage = Storage(self._storages[key], dtype)
        if count * dtype.itemsize != storage.content.nbytes():
            raise ValueError(f"storage {key!r} has {storage.content.nbytes()} bytes, not {count} numbers")
        return storage

    def _rebuild_tensor(
        self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_options: Any
    ) -> Tensor:
        """A tensor in a storage; all sizes in elements."""
        return self._view(storage, storage.dtype, offset, size, stride)

    def _rebuild_typed_tensor(
        self,
        storage: Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        _requires_grad: bool,
        _hooks: Any,
        dtype: torch.dtype,
        *_options: Any,
    ) -> Tensor:
        """A tensor in an untyped storage."""
        return self._view(storage, dtype, offset, size, stride)

    def _view(
        self, storage: Storage, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> Tensor:
        """A tensor of a storage; an error if it lies outside, or if all tensors together are far larger."""
        if len(size) != len(stride) or len(size) > MAX_DIMS or not all(map(_is_count, (offset, *size, *stride))):
            raise ValueError("a tensor of invalid size, stride or offset")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else -1
        if last >= storage.content.nbytes() // dtype.itemsize:
            raise ValueError(f"a tensor of size {size} and stride {stride} beyond the end of its storage")
        self._tensor_bytes += count * dtype.itemsize
        check_limit(self.path, "bytes of tensors", self._tensor_bytes, MAX_SHARED * self._storage_bytes + SPARE_BYTES)
        return torch.empty(0, dtype=dtype).set_(storage.content, offset, size, stride)

    def _count_items(self, number: int) -> None:
        self._items += number
        check_limit(self.path, "items in calls", self._items, MAX_ITEMS)


def _find_own_address(name: str) -> str:
    """The end of an address from the last part `models` or `utils`: of a.models.yolo.Detect, models.yolo.Detect."""
    starts = [name.rfind(f".{package}") + 1 for package in OWN_PACKAGES]
    return name[max(starts) :]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


class ZipCheckpoint(CheckpointFile):
    """A zip archive of a pickle and of one member per storage (PyTorch 1.6 and later)."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        super().__init__(path)
        self._archive = archive
        size = sum(info.file_size for info in archive.infolist())  # members that overlap count twice
        check_limit(path, "bytes unpacked", size, MAX_UNPACKED * path.stat().st_size + SPARE_BYTES)
        name = next(name for name in archive.namelist() if name.rpartition("/")[2] == PICKLE)
        self._folder = name.removesuffix(PICKLE)
        self._is_swapped = self._folder + ORDER in archive.NameToInfo and self._read_text(ORDER) != sys.byteorder

    def read(self, addresses: Iterable[str]) -> Any:
        pickle_size = self._archive.getinfo(self._folder + PICKLE).file_size
        check_limit(self.path, f"bytes of {PICKLE}", pickle_size, MAX_PICKLE_BYTES)
        return self._read_pickle(bytes(self._read_member(PICKLE).numpy()), addresses)[0]

    def _open_storage(self, key: str, dtype: torch.dtype, count: int) -> torch.UntypedStorage:
        storage = self._read_member(f"data/{key}").untyped_storage()
        if self._is_swapped:
            storage.byteswap(dtype)
        return storage

    def _read_member(self, name: str) -> Tensor:
        """The bytes of a member (n,); BadZipFile if they do not fit its checksum."""
        info = self._archive.getinfo(self._folder + name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename}: compression {info.compress_type}")
        if info.CRC == 0:  # written without checksums: torch.serialization.set_crc32_options(False)
            del info.CRC
        content = torch.empty(info.file_size, dtype=torch.uint8)
        view = memoryview(content.numpy())  # type: ignore[arg-type]
        with self._archive.open(info) as member:
            for start in range(0, len(view), CHUNK_BYTES):
                chunk = view[start : start + CHUNK_BYTES]
                if member.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]
                    raise EOFError(f"{info.filename} is incomplete")
        return content

    def _read_text(self, name: str) -> str:
        return bytes(self._read_member(name).numpy()).decode()


class StreamCheckpoint(CheckpointFile):
    """A stream: magic number, version, system, content, keys of storages, and their bytes (PyTorch up to 1.5).

    Such files also hold the source text of every class, which is skipped.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(path)
        self._file = file
        self._file_bytes = path.stat().st_size

    def read(self, addresses: Iterable[str]) -> Any:
        self._file.seek(len(STREAM_START))
        version, system = self._read_next(), self._read_next()
        if version != STREAM_VERSION or not system["little_endian"]:
            raise ValueError(f"version {version!r} or byte order of the file")
        content, keys = self._read_next(addresses), self._read_next()
        for key in keys:
            self._fill_storage(self._storages[key])
        return content

    def _read_next(self, addresses: Iterable[str] = ()) -> Any:
        """The next pickle of the stream."""
        start = self._file.tell()
        value, size = self._read_pickle(self._file.read(MAX_PICKLE_BYTES), addresses)
        self._file.seek(start + size)
        return value

    def _load_external(self, identifier: Any) -> Any:
        """Also of ("module", class, file, source text), which is the class."""
        return identifier[1] if identifier[0] == "module" else super()._load_external(identifier)

    def _open_storage(self, key: str, dtype: torch.dtype, count: int) -> torch.UntypedStorage:
        """A storage of zeros, which is filled once the pickle is read; all together fit into the file."""
        if self._storage_bytes + count * dtype.itemsize > self._file_bytes:
            raise ValueError(f"storage {key!r} of {count} numbers is larger than the file")
        return torch.zeros(count * dtype.itemsize, dtype=torch.uint8).untyped_storage()

    def _fill_storage(self, storage: torch.UntypedStorage) -> None:
        """Read the bytes of a storage; the number of its elements precedes them."""
        self._file.seek(8, 1)
        content = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        if self._file.readinto(memoryview(content)) != len(content):  # type: ignore[attr-defined, arg-type]
            raise EOFError("the file is incomplete")
