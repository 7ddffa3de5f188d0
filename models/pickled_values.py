"""Values in the pickle of a checkpoint that are not of this project: what the reader builds in the place of each.

Numbers, arrays, paths, dates and containers become plain values, and a namespace becomes a mapping. `CALLS` and
`CONSTANTS` are all that a pickle may name besides tensors and the classes of networks.
"""

from __future__ import annotations

import datetime as dates
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.pickle_reader import Global, PickledObject, RefusedGlobalError, check_key

MAX_ITEMS = 4_000_000  # that calls in a pickle receive, and that its content has with shared values repeated
NUMBER_DTYPE = re.compile(r"[biuf][1248]|U[1-9]\d{0,3}")  # numbers, booleans and text
RANGE = re.compile(r"range\((-?\d{1,9}), (-?\d{1,9})(?:, (-?\d{1,9}))?\)")
NUM_DATE_BYTES = {"date": 4, "time": 6, "datetime": 10}
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


class NamespaceRecord(Record):
    """An object that only holds values, as argparse.Namespace; it becomes a mapping."""


class ArrayRecord(PickledObject):
    """A numpy array; `to_array` builds it once shape, dtype and bytes are known."""

    def set_state(self, state: Any) -> None:
        _, self.shape, self.dtype, self.column_major, self.content = state

    def to_array(self) -> np.ndarray:
        flat = np.frombuffer(self.content, self.dtype.to_dtype())
        return flat.reshape(self.shape, order="F" if self.column_major else "C").copy()


class DtypeRecord(PickledObject):
    """A numpy dtype; only numbers, booleans and text are allowed."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not NUMBER_DTYPE.fullmatch(code):
            raise RefusedGlobalError(f"numpy.dtype({_format_name(code)})")
        self.code, self.order = code, "<"

    def set_state(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def to_dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


# -- numbers, text and arrays -----------------------------------------------------------------------------------------


def _read_scalar(dtype: DtypeRecord, content: bytes) -> Any:
    """A numpy scalar as a Python number or string."""
    return np.frombuffer(content, dtype.to_dtype(), count=1)[0].item()


def _read_buffer(content: bytes, dtype: DtypeRecord, shape: Any, order: str) -> ArrayRecord:
    """A numpy array of protocol 5."""
    array = ArrayRecord()
    array.set_state((1, shape, dtype, order == "F", content))
    return array


def _read_bytes(text: str, encoding: str) -> bytes:
    """Bytes, which protocol 2 stores as Latin-1 text."""
    if encoding != "latin1":
        raise ValueError(f"bytes as {_format_name(encoding)}")
    return text.encode("latin1")


def _read_bytearray(content: Any = b"", encoding: Any = "latin-1") -> bytes:
    """A bytearray, from its bytes or, in protocol 2, Latin-1 text; never from a length."""
    if isinstance(content, str) and encoding == "latin-1":
        return content.encode("latin1")
    if isinstance(content, bytes):
        return content
    raise RefusedGlobalError(f"builtins.bytearray({type(content).__name__})")


def _read_complex(real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def _format_name(value: Any) -> str:
    """A value of the file, for messages: other types than text can be too large to print."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


# -- containers -------------------------------------------------------------------------------------------------------


def _read_range(*limits: int) -> range:
    numbers = range(*limits)
    if len(numbers) > MAX_ITEMS:
        raise ValueError(f"{numbers} is too long")
    return numbers


def _read_size(items: Any) -> tuple[Any, ...]:
    return tuple(_check_items(items))


def _read_set(items: Any = ()) -> set[Any]:
    return {check_key(item) for item in _check_items(items)}


def _read_ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return {check_key(key): value for key, value in map(_check_items, _check_items(pairs))}


def _read_counter(counts: Any = None) -> dict[Any, Any]:
    return dict(counts) if isinstance(counts, dict) else {}


def _read_mapping(*_default: Any) -> dict[Any, Any]:
    """A mapping of another type, such as a defaultdict, whose items follow in the pickle."""
    return {}


def _check_items(items: Any) -> list[Any] | tuple[Any, ...]:
    """The items, if they are in a list or tuple: a tensor would give millions of objects."""
    if not isinstance(items, list | tuple):
        raise TypeError(f"items in a {type(items).__name__}")
    return items


# -- paths, dates, devices --------------------------------------------------------------------------------------------


def _read_posix_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _read_windows_path(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


def _read_date(name: str) -> Callable[..., str]:
    """Reader of a date as ISO 8601 text, without its time zone."""

    def read(content: bytes, _zone: Any = None) -> str:
        if not isinstance(content, bytes) or len(content) != NUM_DATE_BYTES[name]:
            raise ValueError(f"{name} of {_format_name(content)}")
        return str(getattr(dates, name)(content).isoformat())

    return read


def _read_duration(*parts: Any) -> float:
    """A duration in seconds, from days, seconds and microseconds."""
    days, seconds, microseconds = (int(part) for part in parts)
    return days * 86_400 + seconds + microseconds * 1e-6


def _read_zone(offset: Any = 0, *_name: Any) -> Any:
    """A time zone as its offset."""
    return offset


def _read_device(*parts: Any) -> str:
    return ":".join(str(part) for part in parts if isinstance(part, str | int))


# -- functions --------------------------------------------------------------------------------------------------------


def _read_attribute(owner: Any, name: Any) -> Global:
    """Stand-in for `getattr`, which checkpoints use for two methods only: of segmentation heads and fused blocks."""
    owner_name = owner.name if isinstance(owner, Global) else type(owner).__name__
    if f"{owner_name}.{name}" == HEAD_FORWARD:
        return Global(HEAD_FORWARD)
    if isinstance(owner, Record) and owner.address in CONV_BLOCKS and name in FUSED_FORWARDS:
        return Global(f"{owner.address}.{name}")
    raise RefusedGlobalError(f"builtins.getattr({owner_name}, {_format_name(name)})")


def _rebuild_parameter(data: Tensor, requires_grad: bool, *_hooks_and_attributes: Any) -> nn.Parameter:
    return nn.Parameter(data, bool(requires_grad) and data.is_floating_point())


def _rebuild_subclass(function: Global, _kind: Any, arguments: tuple[Any, ...], _attributes: Any) -> Any:
    """A tensor with attributes of its own, which are dropped."""
    if function.call is None or not function.name.startswith("torch._utils._rebuild_"):
        raise RefusedGlobalError(function.name)
    return function.call(*_check_items(arguments))


def _read_dill_type(name: Any) -> Global:
    """A built-in type in a file saved with dill, which names it by a string."""
    if isinstance(name, str) and name in DILL_TYPES:
        return CONSTANTS.get(f"builtins.{name}") or Global(f"builtins.{name}", CALLS[f"builtins.{name}"])
    raise RefusedGlobalError(f"dill._dill._load_type({_format_name(name)})")


def _read_dill_array(function: Global, _arguments: Any, state: Any, *_attributes: Any) -> ArrayRecord:
    """A numpy array in a file saved with dill."""
    if not isinstance(function, Global) or not function.name.endswith(".multiarray._reconstruct"):
        raise RefusedGlobalError(f"dill._dill._create_array({getattr(function, 'name', type(function).__name__)})")
    array = ArrayRecord()
    array.set_state(state)
    return array


def _read_dill_text(text: Any) -> range:
    """A value that dill stores as its source text; of such values checkpoints have ranges only."""
    match = RANGE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise RefusedGlobalError(f"dill._dill._eval_repr({_format_name(text)})")
    return _read_range(*(int(limit) for limit in match.groups() if limit is not None))


HEAD_FORWARD = "models.yolo.Detect.forward"  # an attribute of segmentation heads
CONV_BLOCKS = ("models.common.Conv", "models.common.DWConv")
FUSED_FORWARDS = ("forward_fuse", "fuseforward")  # the second up to release 5.0
NUMPY_MODULES = ("numpy.core", "numpy._core")  # numpy 1 and 2
PATHLIB_MODULES = ("pathlib", "pathlib._local")  # the second in Python 3.13
NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")
MAPPINGS = ("collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict")
CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _read_bytes,
    "builtins.bytearray": _read_bytearray,
    "builtins.complex": _read_complex,
    "builtins.frozenset": _read_set,
    "builtins.getattr": _read_attribute,
    "builtins.range": _read_range,
    "builtins.set": _read_set,
    "collections.Counter": _read_counter,
    "collections.OrderedDict": _read_ordered_dict,
    "datetime.timedelta": _read_duration,
    "datetime.timezone": _read_zone,
    "dill._dill._create_array": _read_dill_array,
    "dill._dill._eval_repr": _read_dill_text,
    "dill._dill._load_type": _read_dill_type,
    "numpy.dtype": DtypeRecord,
    "torch.Size": _read_size,
    "torch.device": _read_device,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    **{f"datetime.{name}": _read_date(name) for name in NUM_DATE_BYTES},
    **{name: lambda *_, name=name: NamespaceRecord(name) for name in NAMESPACES},
    **dict.fromkeys(MAPPINGS, _read_mapping),
    **{f"{module}.multiarray._reconstruct": lambda *_: ArrayRecord() for module in NUMPY_MODULES},
    **{f"{module}.multiarray.scalar": _read_scalar for module in NUMPY_MODULES},
    **{f"{module}.numeric._frombuffer": _read_buffer for module in NUMPY_MODULES},
    **{f"{module}.{name}": _read_posix_path for module in PATHLIB_MODULES for name in ("PosixPath", "PurePosixPath")},
    **{
        f"{module}.{name}": _read_windows_path
        for module in PATHLIB_MODULES
        for name in ("WindowsPath", "PureWindowsPath")
    },
}
PLAIN_TYPES = ("bool", "dict", "float", "int", "list", "str", "tuple")  # defaults of mappings; never called
DILL_TYPES = ("bytearray", "complex", "frozenset", "range", "set", *PLAIN_TYPES)
CONSTANTS: Mapping[str, Any] = {
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    **{str(dtype): dtype for dtype in STORAGES.values()},
    "torch.storage.UntypedStorage": torch.uint8,
    **{
        name: Global(name)
        for name in (
            *("numpy.ndarray", "torch.Tensor", "torch.nn.parameter.Parameter", HEAD_FORWARD),
            *(f"builtins.{name}" for name in PLAIN_TYPES),
        )
    },
}
