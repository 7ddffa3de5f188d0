"""Safe checkpoint reader: runs no code from the file, within bounds of time and memory.

A checkpoint is a zip archive of a pickle and of one member per tensor storage. `models.pickle_reader` reads the pickle:
the classes that the caller names become a `Record` of the object's state, a numpy scalar a Python number, a path a
string. No constructor, method or hook of a named class runs. The checksum of every member that is read is verified;
`torch.load` does not do that.
"""

from __future__ import annotations

import math
import re
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.pickle_reader import Global, PickledObject, PickleReader, RefusedGlobalError, check_key
from utils.core.errors import InputError
from utils.core.limits import check_limit

PICKLE, ORDER = "data.pkl", "byteorder"
MAX_PICKLE_BYTES = 16 * 2**20  # a network has about 100 kB
MAX_ITEMS = 4_000_000  # that calls in the pickle receive, and that the content has with shared values repeated
MAX_DEPTH = 100
MAX_UNPACKED = 4  # times the size of the file; torch.save does not compress
MAX_SHARED = 2  # bytes of all tensors per byte of storage
SPARE_BYTES = 256 * 2**20  # allowed beyond these factors
MAX_DIMS = 64
CHUNK_BYTES = 2**20
NUMBER_DTYPE = re.compile(r"[biuf][1248]")
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Record(PickledObject):
    """A pickled object: the address of its class and its attributes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.state: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise TypeError(f"{self.address}: state is {type(state).__name__}, not a mapping")
        self.state = state


class ArrayRecord(PickledObject):
    """A numpy array; `to_array` builds it once shape, dtype and bytes are known."""

    def set_state(self, state: Any) -> None:
        _, self.shape, self.dtype, self.column_major, self.content = state

    def to_array(self) -> np.ndarray:
        flat = np.frombuffer(self.content, self.dtype.to_dtype())
        return flat.reshape(self.shape, order="F" if self.column_major else "C").copy()


class DtypeRecord(PickledObject):
    """A numpy dtype; only numbers and booleans are allowed."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not NUMBER_DTYPE.fullmatch(code):
            raise RefusedGlobalError(f"numpy.dtype({_format_name(code)})")
        self.code, self.order = code, "<"

    def set_state(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def to_dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


@dataclass(frozen=True)
class Storage:
    """The bytes of a tensor storage and the type of its elements."""

    content: torch.UntypedStorage
    dtype: torch.dtype


# -- stand-ins for globals --------------------------------------------------------------------------------------------


def _read_scalar(dtype: DtypeRecord, content: bytes) -> Any:
    """A numpy scalar as a Python number."""
    return np.frombuffer(content, dtype.to_dtype(), count=1)[0].item()


def _read_bytes(text: str, encoding: str) -> bytes:
    """Bytes, which protocol 2 stores as Latin-1 text."""
    if encoding != "latin1":
        raise ValueError(f"bytes as {_format_name(encoding)}")
    return text.encode("latin1")


def _read_posix_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _read_windows_path(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


def _read_range(*limits: int) -> range:
    numbers = range(*limits)
    if len(numbers) > MAX_ITEMS:
        raise ValueError(f"{numbers} is too long")
    return numbers


def _read_size(items: Any) -> tuple[Any, ...]:
    return tuple(_check_items(items))


def _read_set(items: Any) -> set[Any]:
    return {check_key(item) for item in _check_items(items)}


def _read_ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return {check_key(key): value for key, value in map(_check_items, _check_items(pairs))}


def _check_items(items: Any) -> list[Any] | tuple[Any, ...]:
    """The items, if they are in a list or tuple: a tensor would give millions of objects."""
    if not isinstance(items, list | tuple):
        raise TypeError(f"items in a {type(items).__name__}")
    return items


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _read_device(*parts: Any) -> str:
    return ":".join(str(part) for part in parts if isinstance(part, str | int))


def _format_name(value: Any) -> str:
    """A value of the file, for messages: other types than text can be too large to print."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def _read_attribute(owner: Any, name: Any) -> Global:
    """Stand-in for `getattr`, which segmentation checkpoints use for `Detect.forward` only."""
    owner_name = owner.name if isinstance(owner, Global) else type(owner).__name__
    if (owner_name, name) == ("models.yolo.Detect", "forward"):
        return Global("models.yolo.Detect.forward")
    raise RefusedGlobalError(f"builtins.getattr({owner_name}, {_format_name(name)})")


def _rebuild_parameter(data: Tensor, requires_grad: bool, *_hooks_and_attributes: Any) -> nn.Parameter:
    return nn.Parameter(data, bool(requires_grad) and data.is_floating_point())


def _rebuild_subclass(function: Global, _kind: Any, arguments: tuple[Any, ...], _attributes: Any) -> Any:
    """A tensor with attributes of its own, which are dropped."""
    if function.call is None or not function.name.startswith("torch._utils._rebuild_"):
        raise RefusedGlobalError(function.name)
    return function.call(*_check_items(arguments))


NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1 and 2
PATHLIB_MODULES = ("pathlib", "pathlib._local")  # the second since Python 3.13
CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _read_bytes,
    "builtins.getattr": _read_attribute,
    "builtins.range": _read_range,
    "builtins.set": _read_set,
    "collections.OrderedDict": _read_ordered_dict,
    "numpy.dtype": DtypeRecord,
    "torch.Size": _read_size,
    "torch.device": _read_device,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    **{f"{module}._reconstruct": lambda *_: ArrayRecord() for module in NUMPY_MODULES},
    **{f"{module}.scalar": _read_scalar for module in NUMPY_MODULES},
    **{f"{module}.{name}": _read_posix_path for module in PATHLIB_MODULES for name in ("PosixPath", "PurePosixPath")},
    **{
        f"{module}.{name}": _read_windows_path
        for module in PATHLIB_MODULES
        for name in ("WindowsPath", "PureWindowsPath")
    },
}
CONSTANTS: dict[str, Any] = {
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    **{str(dtype): dtype for dtype in STORAGES.values()},
    "torch.storage.UntypedStorage": torch.uint8,
    **{name: Global(name) for name in ("numpy.ndarray", "torch.Tensor", "torch.nn.parameter.Parameter")},
}


def _build_table(addresses: Iterable[str], archive: CheckpointArchive) -> dict[str, Any]:
    """The allowed globals of a checkpoint."""
    calls: dict[str, Callable[..., Any]] = {
        **CALLS,
        **{address: lambda *_, address=address: Record(address) for address in addresses},
        "torch._utils._rebuild_tensor_v2": archive.rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": archive.rebuild_typed_tensor,
    }
    return CONSTANTS | {name: Global(name, call) for name, call in calls.items()}


# -- archive ----------------------------------------------------------------------------------------------------------


class CheckpointArchive:
    """The members of a checkpoint, and the tensors in them.

    Args:
        archive: the open file.
        path: its name, for messages.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive, self._path = archive, path
        size = sum(info.file_size for info in archive.infolist())  # members that overlap count twice
        check_limit(path, "bytes unpacked", size, MAX_UNPACKED * path.stat().st_size + SPARE_BYTES)
        name = next(name for name in archive.namelist() if name.rpartition("/")[2] == PICKLE)
        self._folder = name.removesuffix(PICKLE)
        self._is_swapped = self._folder + ORDER in archive.NameToInfo and self._read_text(ORDER) != sys.byteorder
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._storage_bytes = self._tensor_bytes = self._items = 0

    def read(self, addresses: Iterable[str]) -> Any:
        """The content of the checkpoint, see `read_checkpoint`."""
        pickle_size = self._archive.getinfo(self._folder + PICKLE).file_size
        check_limit(self._path, f"bytes of {PICKLE}", pickle_size, MAX_PICKLE_BYTES)
        content = bytes(self._read_member(PICKLE).numpy())
        table = _build_table(addresses, self)
        reader = PickleReader(content, table, load_external=self._load_storage, count_items=self._count_items)
        return _PlainConverter(self._path).convert(reader.read())

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

    def _load_storage(self, identifier: Any) -> Storage:
        """The storage of a persistent id: ("storage", type, key, device, number of elements)."""
        kind, dtype, key, _, count = identifier
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_count(count):
            raise ValueError("a reference to something else than a storage")
        if key not in self._storages:
            self._storages[key] = self._read_member(f"data/{key}").untyped_storage()
            self._storage_bytes += self._storages[key].nbytes()
            if self._is_swapped:
                self._storages[key].byteswap(dtype)
        storage = Storage(self._storages[key], dtype)
        if count * dtype.itemsize != storage.content.nbytes():
            raise ValueError(f"storage {key!r} has {storage.content.nbytes()} bytes, not {count} numbers")
        return storage

    def rebuild_tensor(
        self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_options: Any
    ) -> Tensor:
        """A tensor in a storage; all sizes in elements."""
        return self._view(storage, storage.dtype, offset, size, stride)

    def rebuild_typed_tensor(
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
        check_limit(self._path, "bytes of tensors", self._tensor_bytes, MAX_SHARED * self._storage_bytes + SPARE_BYTES)
        return torch.empty(0, dtype=dtype).set_(storage.content, offset, size, stride)

    def _count_items(self, number: int) -> None:
        self._items += number
        check_limit(self._path, "items in calls", self._items, MAX_ITEMS)


class _PlainConverter:
    """Replaces array stand-ins in nested containers and records by numpy arrays, each value once.

    Afterwards the content can be walked recursively: it does not contain itself, and its depth and size, with shared
    values repeated, are bounded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._array_bytes = 0
        self._results: dict[int, tuple[Any, Any, int]] = {}  # by id: value (so that the id stays unique), result, size
        self._open: set[int] = set()

    def convert(self, value: Any) -> Any:
        """The value with arrays in place of stand-ins."""
        return self._convert(value)[0]

    def _convert(self, value: Any) -> tuple[Any, int]:
        """The converted value, and the number of values in it."""
        if not isinstance(value, ArrayRecord | Record | dict | list | tuple | set):
            return value, 1
        key = id(value)
        if key in self._open or len(self._open) >= MAX_DEPTH:
            raise ValueError("a value that contains itself, or nested too deep")
        if key not in self._results:
            self._open.add(key)
            result, size = self._convert_children(value)
            self._open.remove(key)
            check_limit(self._path, "values", size, MAX_ITEMS)
            self._results[key] = (value, result, size)
        return self._results[key][1:]

    def _convert_children(self, value: Any) -> tuple[Any, int]:
        if isinstance(value, ArrayRecord):
            self._array_bytes += len(value.content)
            check_limit(self._path, "bytes of arrays", self._array_bytes, SPARE_BYTES)
            array = value.to_array()
            return array, 1 + array.size
        if isinstance(value, Record):
            value.state, size = self._convert(value.state)
            return value, 1 + size
        if isinstance(value, dict):
            pairs = {key: self._convert(item) for key, item in value.items()}
            return {key: item for key, (item, _) in pairs.items()}, 1 + sum(size for _, size in pairs.values())
        items = [self._convert(item) for item in value]
        return type(value)(item for item, _ in items), 1 + sum(size for _, size in items)


def read_checkpoint(path: str | Path, addresses: Iterable[str] = ()) -> Any:
    """Read a .pt file, with tensors on the CPU.

    Args:
        addresses: allowed classes, such as "models.common.Conv"; their objects are returned as `Record`.

    Raises:
        InputError: no such file, not a checkpoint, damaged, over a limit, or it contains a global that is not allowed.
    """
    path = Path(path)
    _check_start(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            return CheckpointArchive(archive, path).read(addresses)
    except InputError:
        raise
    except RefusedGlobalError as error:
        raise InputError(
            f"{path}: refused, none of its code was run: it contains {error}, which no YOLOv5 checkpoint needs; "
            "use a checkpoint written by train.py or by YOLOv5 3.0 to 7.0"
        ) from error
    except Exception as error:  # untrusted bytes drive zipfile and the reader: any exception may come out of them
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise InputError(f"{path}: damaged checkpoint ({reason}); copy or download it again") from error


def _check_start(path: Path) -> None:
    """Raise InputError unless the file is a zip archive."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the path of a .pt checkpoint")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise InputError(f"{path}: the file is empty; copy or download it again")
    if start[:2] == b"\x80\x02" or start[:2] == b"\x80\x8a":
        raise InputError(f"{path}: a pickle in the format of PyTorch before 1.6; save it again with a newer PyTorch")
    if start != b"PK\x03\x04":
        raise InputError(f"{path}: not a PyTorch checkpoint; use a .pt file written by train.py")


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise InputError unless a zip archive was written by torch.save."""
    names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise InputError(f"{path}: a TorchScript file, not a checkpoint; use the .pt file that it was exported from")
    if PICKLE not in names:
        raise InputError(f"{path}: a zip archive, but not a PyTorch checkpoint; use a .pt file written by train.py")
