"""Reading a .pt file without running anything in it: foreign classes come back as inert records of their state.

`torch.load(weights_only=True)` refuses every global that is not on a list. The list here is the addresses that the
caller names, and none of them leads to the real class or function: an object becomes a `Record`, a numpy number a
Python number, a path a string. No constructor, method or hook of a named class runs while the file is read.
"""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar

import numpy as np
import torch

from utils.core.errors import InputError

NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1 and 2
PATHLIB_MODULES = ("pathlib", "pathlib._local")  # the second from Python 3.13 on
NUMBER_DTYPE = re.compile(r"[biuf][1248]")
_table_lock = threading.Lock()  # torch's list of allowed globals is one per process


class Record:
    """An object of a file as it was written: the address of its class and its attributes."""

    address: ClassVar[str] = ""

    def __new__(cls, *args: Any) -> Record:
        record = object.__new__(cls)
        record.state = {}
        return record

    def __init__(self, *args: Any) -> None:
        self.state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, Mapping):
            raise TypeError(f"{self.address}: its state is {type(state).__name__}, not a mapping")
        self.state = dict(state)


class FunctionRecord(Record):
    """A function that a file refers to; it is never called."""


class RefusedGlobalError(Exception):
    """The file asks for a function with arguments that no checkpoint has; the text is what it asks for."""


class ArrayRecord:
    """A numpy array being read; `value` makes the array once shape, dtype and bytes are known."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.column_major, self.content = state

    def value(self) -> np.ndarray:
        flat = np.frombuffer(self.content, self.dtype.value())
        return flat.reshape(self.shape, order="F" if self.column_major else "C").copy()


class DtypeRecord:
    """A numpy dtype being read; only numbers and booleans are known, objects least of all."""

    order = "<"

    def __init__(self, code: str, *_flags: Any) -> None:
        if not isinstance(code, str) or not NUMBER_DTYPE.fullmatch(code):
            raise RefusedGlobalError(f"numpy.dtype({code!r})")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def value(self) -> np.dtype:
        return np.dtype(self.order + self.code)


def _number(dtype: DtypeRecord, content: bytes) -> Any:
    """A numpy scalar as a Python number."""
    return np.frombuffer(content, dtype.value(), count=1)[0].item()


def _array(*_shape_and_type: Any) -> ArrayRecord:
    return ArrayRecord()


def _posix_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _windows_path(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


def _attribute(owner: Any, name: Any) -> FunctionRecord:
    """Stands in for `getattr`, which segmentation checkpoints use for one function only."""
    shown = owner.address if isinstance(owner, type) and issubclass(owner, Record) else type(owner).__name__
    if (shown, name) == ("models.yolo.Detect", "forward"):
        return FunctionRecord()
    raise RefusedGlobalError(f"builtins.getattr({shown}, {name!r})")


def _stand_ins() -> dict[str, Any]:
    """What the globals of numbers, paths and functions are replaced by."""
    table: dict[str, Any] = {"builtins.getattr": _attribute, "builtins.range": range, "builtins.set": set}
    table |= {"numpy.dtype": DtypeRecord, "numpy.ndarray": ArrayRecord}
    for module in NUMPY_MODULES:
        table |= {f"{module}._reconstruct": _array, f"{module}.scalar": _number}
    for module in PATHLIB_MODULES:
        table |= dict.fromkeys((f"{module}.PosixPath", f"{module}.PurePosixPath"), _posix_path)
        table |= dict.fromkeys((f"{module}.WindowsPath", f"{module}.PureWindowsPath"), _windows_path)
    return table


def read_checkpoint(path: str | Path, addresses: Iterable[str] = ()) -> Any:
    """The content of a .pt file, with tensors on the CPU.

    Args:
        addresses: classes ("models.common.Conv") whose objects may occur; each comes back as a `Record`.

    Raises:
        InputError: no such file, not a checkpoint, damaged, or it names a global that is not allowed.
    """
    path = Path(path)
    _check_container(path)
    records = {name: type(name.rpartition(".")[2], (Record,), {"address": name}) for name in addresses}
    allowed: list[Any] = [(stand_in, name) for name, stand_in in {**_stand_ins(), **records}.items()]
    with _table_lock, torch.serialization.safe_globals(allowed):
        try:
            return _plain(torch.load(path, map_location="cpu", weights_only=True))
        except RefusedGlobalError as error:
            raise InputError(_refusal(path, str(error))) from error
        except Exception as error:  # bytes of unknown origin run an interpreter: any exception may come out of it
            if names := _refused_names(path, error):
                raise InputError(_refusal(path, names)) from error
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: damaged checkpoint ({type(error).__name__}: {reason}); copy it again") from error


def _check_container(path: Path) -> None:
    """Raise InputError unless the file is a zip archive as torch.save writes it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a .pt checkpoint")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise InputError(f"{path}: the file is empty; copy or download it again")
    if start[:2] == b"\x80\x02" or start[:2] == b"\x80\x8a":
        raise InputError(f"{path}: a bare pickle, as PyTorch before 1.6 wrote it; save it again with a newer one")
    if start != b"PK\x03\x04":
        raise InputError(f"{path}: not a PyTorch checkpoint; give a .pt file written by train.py")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or cut short ({error}); copy or download it again") from error
    if "constants.pkl" in names:
        raise InputError(f"{path}: a TorchScript program, not a checkpoint; give the .pt file it was made from")
    if "data.pkl" not in names:
        raise InputError(f"{path}: a zip archive, but not a PyTorch checkpoint; give a .pt file written by train.py")


def _refused_names(path: Path, error: Exception) -> str:
    """The globals of a file that are not allowed, joined; "" where none is to blame."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # an opcode that torch does not know ends its scan; the message has the first name at least
        names = re.findall(r"GLOBAL (\S+)", str(error))[:1]
    return ", ".join(sorted(names))


def _refusal(path: Path, names: str) -> str:
    return (
        f"{path}: refused, nothing of it was run: it names {names}, which no YOLOv5 checkpoint needs; "
        "give a checkpoint of train.py or of YOLOv5 3.0 to 7.0"
    )


def _plain(value: Any) -> Any:
    """The same structure with finished numpy arrays; records keep their own state plain too."""
    if isinstance(value, ArrayRecord):
        return value.value()
    if isinstance(value, Record):
        value.state = {str(name): _plain(item) for name, item in value.state.items()}
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, list | tuple | set):
        return type(value)(_plain(item) for item in value)
    return value
