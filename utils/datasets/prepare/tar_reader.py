"""Members of a tar archive that may be damaged or hostile.

`tarfile` reads extended headers of any size at once, and some take it hours; here every size is checked before it is
read, and only files and folders have content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from utils.core.limits import check_limit

BLOCK = 512
CHUNK = 1 << 20  # bytes read at once
MAX_HEADER = 1 << 20  # bytes of an extended header
FILES, FOLDER = (b"0", b"\0", b"7"), b"5"  # type flags
LONG_NAME, LONG_LINK = b"L", b"K"  # of GNU tar
RECORDS, GLOBAL_RECORDS = (b"x", b"X"), b"g"


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: as in the archive, not checked.
        size: declared number of bytes; `read_chunks` may yield another number.
        kind: "other" is a link, a device or a sparse file.
    """

    name: str
    size: int
    kind: Literal["file", "folder", "other"]
    read_chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class _Header:
    """The fields of a ustar header that matter for the content (POSIX.1-2017, pax, "ustar Interchange Format")."""

    name: str
    size: int
    flag: bytes


class TarReader:
    """Iterates over the members of a tar archive; the content of each can be read until the next one.

    Damage raises ValueError or EOFError.

    Args:
        place: the archive, for messages.
        stream: its unpacked bytes, from the start.
        length: number of these bytes if known; else members are skipped by reading.
        max_bytes: limit on the bytes of the stream.
    """

    def __init__(self, place: Path, stream: BinaryIO, *, length: int | None, max_bytes: float) -> None:
        self.place, self.stream, self.length, self.max_bytes = place, stream, length, max_bytes
        self._end = 0  # of what the headers so far declare
        self._left = 0  # bytes of the current member to read, with its padding

    def __iter__(self) -> Iterator[Member]:
        long_name, records = "", dict[str, str]()
        while (header := self._read_header()) is not None:
            if header.flag in (LONG_NAME, LONG_LINK, GLOBAL_RECORDS, *RECORDS):
                content = self._read_extension(header.size)
                if header.flag == LONG_NAME:
                    long_name = _decode(content)
                elif header.flag in RECORDS:
                    records = parse_records(content)
                continue
            yield self._build_member(header, long_name, records)
            self._skip()
            long_name, records = "", {}
        while self.length is None and (rest := self.stream.read(CHUNK)):  # the checksum of gzip is at the end
            self._declare(len(rest))

    def _build_member(self, header: _Header, long_name: str, records: dict[str, str]) -> Member:
        name = records.get("path") or long_name or header.name
        size = _parse_size(records["size"]) if "size" in records else header.size
        is_sparse = any(key.startswith("GNU.sparse.") for key in records)
        kind: Literal["file", "folder", "other"] = "other"
        if header.flag == FOLDER:
            kind, size = "folder", 0
        elif header.flag in FILES and not is_sparse:
            kind = "folder" if name.endswith("/") else "file"
        self._declare(_pad(size))
        self._left = _pad(size)
        return Member(name, size, kind, lambda: self._read_content(size))

    def _read_header(self) -> _Header | None:
        """The next header; None at the end of the archive."""
        place = self._end
        block = self.stream.read(BLOCK)
        if not block.strip(b"\0"):
            return None
        self._declare(BLOCK)
        if len(block) < BLOCK:
            raise EOFError("it ends within a header")
        try:
            return parse_header(block)
        except ValueError as error:
            raise ValueError(f"damaged header at byte {place:,}") from error

    def _read_extension(self, size: int) -> bytes:
        check_limit(self.place, "bytes in the header of a member", size, MAX_HEADER)
        self._declare(_pad(size))
        self._left = _pad(size)
        content = b"".join(self._read_content(size))
        self._skip()
        return content

    def _read_content(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self.stream.read(min(CHUNK, size))
            if not chunk:
                raise EOFError("it ends within a member")
            size -= len(chunk)
            self._left -= len(chunk)
            yield chunk

    def _skip(self) -> None:
        """Skip what is left of the current member."""
        if self.length is None:
            for _ in self._read_content(self._left):
                pass
        else:
            self.stream.seek(self._left, 1)
            self._left = 0

    def _declare(self, size: int) -> None:
        """Check that the stream may have so many bytes more."""
        self._end += size
        if self.length is not None and self._end > self.length:
            raise EOFError(f"it has {self.length:,} bytes, but its headers declare more")
        check_limit(self.place, "bytes unpacked", self._end, self.max_bytes)


def is_header(block: bytes) -> bool:
    """Whether a tar archive starts with this block."""
    try:
        return len(block) == BLOCK and bool(parse_header(block))
    except ValueError:
        return False


def parse_header(block: bytes) -> _Header:
    """Parse a block of 512 bytes; ValueError if it is not a header."""
    if int(_until_nul(block[148:156]) or b"0", 8) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise ValueError("checksum")
    name, prefix = _until_nul(block[:100]), _until_nul(block[345:500])
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _Header(_decode(name), _parse_octal(block[124:136]), block[156:157])


def parse_records(content: bytes) -> dict[str, str]:
    """Parse the records `length key=value` of an extended header (POSIX.1-2017, pax, "pax Extended Header")."""
    records, start = {}, 0
    while start < len(content):
        length, space, _ = content[start : start + 20].partition(b" ")
        end = start + int(length) if length.isdigit() else 0
        key, equals, value = content[start + len(length) + 1 : end].partition(b"=")
        if not (space and equals and value.endswith(b"\n") and end <= len(content)):
            raise ValueError("damaged extended header")
        records[_decode(key)] = value[:-1].decode("utf-8", "surrogateescape")
        start = end
    return records


def _parse_size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"size {text[:20]!r} in an extended header")
    return int(text)


def _parse_octal(field: bytes) -> int:
    """A number in octal digits, or if it does not fit, in binary (GNU tar, "Extensions to the tar Format")."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = _until_nul(field).strip() or b"0"
    if not digits.isdigit():
        raise ValueError("not a number")
    return int(digits, 8)


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _decode(name: bytes) -> str:
    return _until_nul(name).decode("utf-8", "surrogateescape")


def _pad(size: int) -> int:
    """The size rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK
