"""ONNX files as bytes, without tensors in other files: a path in the file could be that of any file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from utils.backends.base import MAX_FILE_BYTES
from utils.core.errors import InputError
from utils.core.files import read_file

# Fields that hold messages, by number, of the messages that lead to tensors (onnx.proto).
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "function": {7: "node", 11: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
MAX_VARINT_BYTES = 10


class _DamagedError(Exception):
    """The bytes are not a message."""


def read_onnx(path: Path, file: str) -> bytes:
    """Content of an ONNX file.

    Args:
        file: name for messages.

    Raises:
        InputError: the file is damaged, too large, or has tensors in other files.
    """
    content = read_file(path, max_bytes=MAX_FILE_BYTES)
    try:
        is_external = _has_external_data(content)
    except _DamagedError as error:
        raise InputError(f"{file}: damaged or not an ONNX file; copy or export it again") from error
    if is_external:
        raise InputError(f"{file}: has tensors in other files, which is not supported; export it as a single file")
    return content


def _has_external_data(content: bytes) -> bool:
    """Whether a tensor of the model is in another file."""
    pending = [("model", 0, len(content))]
    while pending:
        kind, start, end = pending.pop()
        for number, wire_type, position, length in _iter_fields(content, start, end):
            if kind == "tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and length)):
                return True
            if wire_type == BYTES and number in CHILDREN[kind]:
                pending.append((CHILDREN[kind][number], position, position + length))
    return False


def _iter_fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, position, length) of the fields of a message; for a varint, its value as the length."""
    position = start
    while position < end:
        key, position = _read_varint(content, position, end)
        wire_type, length = key & 7, 0
        if wire_type in (VARINT, BYTES):
            length, position = _read_varint(content, position, end)
        elif wire_type in FIXED_BYTES:
            length = FIXED_BYTES[wire_type]
        else:
            raise _DamagedError
        yield key >> 3, wire_type, position, length
        position += 0 if wire_type == VARINT else length
    if position > end:
        raise _DamagedError


def _read_varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    """A number and the position after it."""
    value = 0
    for shift in range(MAX_VARINT_BYTES):
        if position >= end:
            raise _DamagedError
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position
    raise _DamagedError
