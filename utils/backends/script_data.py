"""Check of the pickles in TorchScript files: layers with the attributes that their code declares, and tensors.

PyTorch trusts the types and sizes in these pickles: an object of another class than declared, or a tensor larger than
its data, would give access to foreign memory.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from models.pickle_reader import Global, PickledObject, PickleReader, RefusedGlobalError
from utils.backends.script_code import MAX_DEPTH, ScriptClass
from utils.core.errors import InputError
from utils.core.limits import check_limit

ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
PUSHES = (
    *("GLOBAL", "EMPTY_TUPLE", "EMPTY_DICT", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "TUPLE"),
)
OPCODES = {  # that PyTorch writes: (items it needs on the stack, change of their number), without those above a mark
    **dict.fromkeys(PUSHES, (0, 1)),
    **dict.fromkeys(("NEWOBJ", "BUILD", "REDUCE", "TUPLE2"), (2, -1)),
    **dict.fromkeys(("STOP", "BINPERSID", "BINPUT", "LONG_BINPUT", "SETITEMS", "TUPLE1"), (1, 0)),
    "PROTO": (0, 0),
    "TUPLE3": (3, -2),
}
DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
MAX_ELEMENTS = 2**31  # of a tensor, which may repeat its data
MAX_DIMENSIONS = 64
PYTHON_TYPES = {"bool": bool, "int": int, "float": float, "NoneType": type(None)}


class DataError(Exception):
    """The pickle is not that of a traced network; the message says why."""


@dataclass(frozen=True)
class _Storage:
    """Data of tensors, in elements."""

    count: int


class _ScriptTensor:
    """A tensor."""


class _ScriptObject(PickledObject):
    """An object of a class of the code."""

    def __init__(self, name: str, classes: Mapping[str, ScriptClass]) -> None:
        self.name, self.classes, self.depth = name, classes, 0  # depth 0: no state yet

    def set_state(self, state: Any) -> None:
        """Check the attributes against those that the class declares."""
        fields, name = self.classes[self.name].fields, self.name[-60:]
        if self.depth or not isinstance(state, dict) or state.keys() != fields.keys():
            raise DataError(f"an object of class {name} without the attributes that its code declares")
        for attribute, kind in fields.items():
            if not _has_type(state[attribute], kind):
                raise DataError(f"attribute {attribute[:60]} of class {name} is not of type {kind[-60:]}")
        layers = [value.depth for value in state.values() if isinstance(value, _ScriptObject)]
        self.depth = 1 + max(layers, default=0)
        if self.depth > MAX_DEPTH:
            raise DataError(f"layers nested over {MAX_DEPTH} levels")


def _has_type(value: Any, kind: str) -> bool:
    """Whether a value is of a type of the code."""
    if kind == "Tensor":
        return isinstance(value, _ScriptTensor)
    if kind in PYTHON_TYPES:
        return type(value) is PYTHON_TYPES[kind]
    if kind.startswith("Optional["):
        return value is None or _has_type(value, kind.removeprefix("Optional[").removesuffix("]"))
    return isinstance(value, _ScriptObject) and value.depth > 0 and value.name == kind


def check_module(content: bytes, classes: Mapping[str, ScriptClass], sizes: Mapping[str, int], file: str) -> None:
    """Check `data.pkl`: one object, of a class of the code.

    Args:
        classes: of the code, by name.
        sizes: bytes of the tensor data by key.
        file: for messages about limits.

    Raises:
        DataError: the pickle is not that of a traced network.
        InputError: a limit is exceeded.
    """
    if not isinstance(_read(content, classes, sizes, file), _ScriptObject):
        raise DataError("the content is not a network")


def check_constants(content: bytes, sizes: Mapping[str, int], file: str) -> None:
    """Check `constants.pkl`, a tuple of tensors; arguments and errors as for `check_module`."""
    constants = _read(content, {}, sizes, file)
    if not isinstance(constants, tuple) or not all(isinstance(value, _ScriptTensor) for value in constants):
        raise DataError("a constant is not a tensor")


def _read(content: bytes, classes: Mapping[str, ScriptClass], sizes: Mapping[str, int], file: str) -> Any:
    """The value of a pickle that PyTorch reads in the same way; DataError if it may not."""

    def make_class(name: str) -> Global:
        return Global(name, lambda: _ScriptObject(name, classes))

    def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any) -> _ScriptTensor:
        if not isinstance(storage, _Storage) or type(gradient) is not bool or hooks is not None:
            raise DataError("a tensor without data")
        check_limit(file, "elements of a tensor", _count_elements(storage, offset, size, stride), MAX_ELEMENTS)
        return _ScriptTensor()

    names: dict[str, Any] = {name: make_class(name) for name in classes}
    names |= {f"torch.{kind}Storage": Global(kind) for kind in ITEM_BYTES}
    names["torch._utils._rebuild_tensor_v2"] = Global("tensor", rebuild_tensor)
    names["collections.OrderedDict"] = Global("hooks", lambda: None)
    _check_opcodes(content)
    reader = PickleReader(content, names, load_external=_make_storage_loader(sizes), count_items=lambda _: None)
    try:
        return reader.read()
    except (DataError, InputError):
        raise
    except RefusedGlobalError as error:
        raise DataError(f"a reference to {str(error)[:80]}") from error
    except Exception as error:  # a damaged pickle
        raise DataError(f"a damaged pickle ({type(error).__name__})") from error


def _check_opcodes(content: bytes) -> None:
    """DataError unless every opcode is known and finds its items above the last mark, and memory has no gaps."""
    height, cells, marks = 0, 0, [0]
    try:
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name == "MARK":
                marks.append(height)
                continue
            if name in ("TUPLE", "SETITEMS"):
                height = marks.pop()
            needed, change = OPCODES[name]
            if height - marks[-1] < needed:
                raise DataError(f"opcode {name} without items")
            height += change
            if name in ("BINPUT", "LONG_BINPUT"):
                if int(str(argument)) > cells:
                    raise DataError(f"memory cell {argument}")
                cells += 1
    except (ValueError, KeyError, IndexError) as error:  # KeyError: another opcode; IndexError: no mark
        raise DataError(f"a damaged pickle ({str(error)[:60]})") from error
    if height != 1 or len(marks) != 1:
        raise DataError("a damaged pickle")


def _make_storage_loader(sizes: Mapping[str, int]) -> Callable[[Any], _Storage]:
    """Function from a persistent id to the storage that it refers to."""

    def load(reference: Any) -> _Storage:
        kinds = (str, Global, str, str, int)
        if not isinstance(reference, tuple) or tuple(map(type, reference)) != kinds or reference[0] != "storage":
            raise DataError("unusual tensor data")
        _, dtype, key, device, count = reference
        item_bytes = ITEM_BYTES.get(dtype.name)
        if item_bytes is None or not DEVICE.fullmatch(device) or count < 0:
            raise DataError("unusual tensor data")
        stored = sizes.get(key, 0)
        if count * item_bytes > stored:
            raise DataError(f"tensor data {key[:20]} of {stored} instead of {count * item_bytes} bytes")
        return _Storage(count)

    return load


def _count_elements(storage: _Storage, offset: Any, size: Any, stride: Any) -> int:
    """Number of elements of a tensor, at most 10^18; DataError if it is larger than its storage."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise DataError("a tensor without shape")
    if len(size) > MAX_DIMENSIONS or not all(type(v) is int and v >= 0 for v in (offset, *size, *stride)):
        raise DataError("a tensor of unusual shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.count:
        raise DataError("a tensor larger than its data")
    return min(prod(size), 10**18)
