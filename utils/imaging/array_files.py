"""Arrays in .npy files, checked against the size of the file before memory is allocated."""

from __future__ import annotations

import io
import math
import os
import tokenize
from typing import BinaryIO, NamedTuple

import numpy as np

MAX_HEADER = 1 << 14  # bytes
HEADER_ERRORS = (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError, tokenize.TokenError)


class ArrayHeader(NamedTuple):
    """What the header of an array file says.

    Attributes:
        shape: positive sides.
        dtype: bool, integer or float.
        is_fortran: the first axis varies fastest.
        offset: bytes before the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    offset: int


def read_array_header(stream: BinaryIO) -> ArrayHeader:
    """The header of an array file.

    Raises:
        ValueError: not an array file, not plain numbers, or with fewer values than its shape says.
    """
    start = io.BytesIO(stream.read(MAX_HEADER))  # a header cannot ask for more memory than this
    try:
        version = np.lib.format.read_magic(start)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(version[0])
        if read_header is None:
            raise ValueError("its format version is unknown")
        shape, is_fortran, dtype = read_header(start)
    except HEADER_ERRORS as error:
        raise ValueError(f"not a readable array file ({' '.join(str(error).split())[:80]})") from error
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of type {str(dtype)[:40]}, expected integers or floats")
    if not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"an array of shape {str(shape)[:40]}, expected positive sides")
    if start.tell() + math.prod(shape) * dtype.itemsize > os.fstat(stream.fileno()).st_size:
        raise ValueError(f"truncated: an array of shape {str(shape)[:40]} is larger than the file")
    return ArrayHeader(shape, dtype, is_fortran, start.tell())


def read_array(stream: BinaryIO, header: ArrayHeader) -> np.ndarray:
    """The array of a file with this header, in the byte order of the machine."""
    stream.seek(header.offset)
    values = np.fromfile(stream, header.dtype, math.prod(header.shape))
    values = values.astype(header.dtype.newbyteorder("="), copy=False)
    return values.reshape(header.shape, order="F" if header.is_fortran else "C")
