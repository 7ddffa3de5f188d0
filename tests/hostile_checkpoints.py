"""Checkpoints made by hand, opcode by opcode, for tests of what torch.save would not write."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def encode_pickle(body: bytes) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + body + b"."


def encode_global(address: str) -> bytes:
    """A reference to a class or function."""
    module, _, name = address.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def encode_int(number: int) -> bytes:
    """An integer of any size."""
    digits = pickle.encode_long(number)
    return b"\x8b" + struct.pack("<i", len(digits)) + digits


def encode_text(text: str) -> bytes:
    """A string."""
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def encode_tuple(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def encode_ints(*numbers: int) -> bytes:
    """A tuple of integers."""
    return encode_tuple(*map(encode_int, numbers))


def encode_call(address: str, *arguments: bytes) -> bytes:
    """The call of a function."""
    return encode_global(address) + encode_tuple(*arguments) + b"R"


def encode_bytes(content: bytes) -> bytes:
    """Bytes, which protocol 2 stores as Latin-1 text."""
    return encode_call("_codecs.encode", encode_text(content.decode("latin1")), encode_text("latin1"))


def encode_shared_lists(depth: int) -> bytes:
    """Nested lists, each of which has the one before twice: 2^depth values if they are written out."""
    lists = [b"]q\x00", *(bytes([*b"]q", k + 1, *b"(h", k, *b"h", k, *b"e"]) for k in range(depth))]
    return encode_tuple(*lists)


def encode_tensor(
    size: Sequence[int], stride: Sequence[int], *, offset: int = 0, key: str = "0", elements: int = 1
) -> bytes:
    """A float tensor in storage `key`, which is said to have so many elements."""
    reference = encode_tuple(
        encode_text("storage"),
        encode_global("torch.FloatStorage"),
        encode_text(key),
        encode_text("cpu"),
        encode_int(elements),
    )
    hooks = encode_call("collections.OrderedDict")
    arguments = (reference + b"Q", encode_int(offset), encode_ints(*size), encode_ints(*stride), b"\x89", hooks)
    return encode_call("torch._utils._rebuild_tensor_v2", *arguments)


def encode_array(code: str, shape: Sequence[int], content: bytes) -> bytes:
    """A numpy array."""
    kind = encode_global("numpy.ndarray")
    array = encode_call("numpy.core.multiarray._reconstruct", kind, encode_ints(0), encode_bytes(b"b"))
    dtype = encode_call("numpy.dtype", encode_text(code), b"\x89", b"\x88")
    return array + encode_tuple(encode_int(1), encode_ints(*shape), dtype, b"\x89", encode_bytes(content)) + b"b"


def write_archive(
    path: Path, body: bytes, storages: Mapping[str, bytes] | None = None, *, compression: int = zipfile.ZIP_STORED
) -> Path:
    """Write a checkpoint whose pickle has this body."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", encode_pickle(body))
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/byteorder", b"little")
    return path
