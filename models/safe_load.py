"""Safe checkpoint reader: runs no code from the file.

`torch.load(weights_only=True)` refuses every global that is not on its allow-list. The allow-list here maps the class
addresses that the caller names to inert stand-ins: an object becomes a `Record` of its state, a numpy scalar a Python
number, a path a string. No constructor, method or hook of a named class runs.
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
PATHLIB_MODULES = ("pathlib", "pathlib._local")  # the second since Python 3.13
NUMBER_DTYPE = re.compile(r"[biuf][1248]")
_allow_list_lock = threading.Lock()  # torch has one allow-list per process


class Record:
    """A pickled object: the address of its class and its attributes."""

    address: ClassVar[str] = ""

    def __new__(cls, *args: Any) -> Record:
        record = object.__new__(cls)
        record.state = {}
        return record

    def __init__(self, *args: Any) -> None:
        self.state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, Mapping):
            raise TypeError(f"{self.address}: state is {type(state).__name__}, not a mapping")
        self.state = dict(state)


class FunctionRecord(Record):
    """A function that the file refers to; never called."""


class RefusedGlobalError(Exception):
    """The file calls an allowed function with arguments that no checkpoint needs; the message is the call."""


class ArrayRecord:
    """Stand-in for a numpy array; `to_array` builds it once shape, dtype and bytes are known."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.column_major, self.content = state

    def to_array(self) -> np.ndarray:
        flat = np.frombuffer(self.content, self.dtype.to_dtype())
        return flat.reshape(self.shape, order="F" if self.column_major else "C").copy()


class DtypeRecord:
    """Stand-in for a numpy dtype; only numbers and booleans are allowed."""

    order = "<"

    def __init__(self, code: str, *_flags: Any) -> None:
        if not isinstance(code, str) or not NUMBER_DTYPE.fullmatch(code):
            raise RefusedGlobalError(f"numpy.dtype({code!r})")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def to_dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


def _read_scalar(dtype: DtypeRecord, content: bytes) -> Any:
    """A numpy scalar as a Python number."""
    return np.frombuffer(content, dtype.to_dtype(), count=1)[0].item()


def _read_array(*_shape_and_type: Any) -> ArrayRecord:
    return ArrayRecord()


def _read_posix_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _read_windows_path(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


def _read_attribute(owner: Any, name: Any) -> FunctionRecord:
    """Stand-in for `getattr`, which segmentation checkpoints use for `Detect.forward` only."""
    owner_name = owner.address if isinstance(owner, type) and issubclass(owner, Record) else type(owner).__name__
    if (owner_name, name) == ("models.yolo.Detect", "forward"):
        return FunctionRecord()
    raise RefusedGlobalError(f"builtins.getattr({owner_name}, {name!r})")


def _build_stand_ins() -> dict[str, Any]:
    """Stand-ins for the globals of numbers, paths and functions."""
    table: dict[str, Any] = {"builtins.getattr": _read_attribute, "builtins.range": range, "builtins.set": set}
    table |= {"numpy.dtype": DtypeRecord, "numpy.ndarray": ArrayRecord}
    for module in NUMPY_MODULES:
        table |= {f"{module}._reconstruct": _read_array, f"{module}.scalar": _read_scalar}
    for module in PATHLIB_MODULES:
        table |= dict.fromkeys((f"{module}.PosixPath", f"{module}.PurePosixPath"), _read_posix_path)
        table |= dict.fromkeys((f"{module}.WindowsPath", f"{module}.PureWindowsPath"), _read_windows_path)
    return table


def read_checkpoint(path: str | Path, addresses: Iterable[str] = ()) -> Any:
    """Read a .pt file, with tensors on the CPU.

    Args:
        addresses: allowed classes, such as "models.common.Conv"; their objects are returned as `Record`.

    Raises:
        InputError: no such file, not a checkpoint, damaged, or it contains a global that is not allowed.
    """
    path = Path(path)
    _check_container(path)
    records = {name: type(name.rpartition(".")[2], (Record,), {"address": name}) for name in addresses}
    allowed: list[Any] = [(stand_in, name) for name, stand_in in {**_build_stand_ins(), **records}.items()]
    with _allow_list_lock, torch.serialization.safe_globals(allowed):
        try:
            return _to_plain(torch.load(path, map_location="cpu", weights_only=True))
        except RefusedGlobalError as error:
            raise InputError(_format_refusal(path, str(error))) from error
        except Exception as error:  # untrusted bytes drive the unpickler: any exception may come out of it
            if names := _find_refused_names(path, error):
                raise InputError(_format_refusal(path, names)) from error
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: damaged checkpoint ({type(error).__name__}: {reason}); copy it again") from error


def _check_container(path: Path) -> None:
    """Raise InputError unless the file is a zip archive written by torch.save."""
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
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or truncated ({error}); copy or download it again") from error
    if "constants.pkl" in names:
        raise InputError(f"{path}: a TorchScript file, not a checkpoint; use the .pt file that it was exported from")
    if "data.pkl" not in names:
        raise InputError(f"{path}: a zip archive, but not a PyTorch checkpoint; use a .pt file written by train.py")


def _find_refused_names(path: Path, error: Exception) -> str:
    """The globals of a file that are not allowed, joined; "" if there are none."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # torch stops at an unknown opcode; the error names at least the first global
        names = re.findall(r"GLOBAL (\S+)", str(error))[:1]
    return ", ".join(sorted(names))


def _format_refusal(path: Path, names: str) -> str:
    return (
        f"{path}: refused, none of its code was run: it contains {names}, which no YOLOv5 checkpoint needs; "
        "use a checkpoint written by train.py or by YOLOv5 3.0 to 7.0"
    )


def _to_plain(value: Any) -> Any:
    """Convert array stand-ins in nested containers and in the state of records to numpy arrays."""
    if isinstance(value, ArrayRecord):
        return value.to_array()
    if isinstance(value, Record):
        value.state = {str(name): _to_plain(item) for name, item in value.state.items()}
        return value
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, list | tuple | set):
        return type(value)(_to_plain(item) for item in value)
    return value
