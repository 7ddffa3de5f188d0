"""Size and orientation of an image from its header, known before any memory is allocated for its pixels."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

JPEG_START, PNG_START, BMP_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM"
TIFF_START = re.compile(rb"II[*+]\0|MM\0[*+]")  # + is BigTIFF, with offsets of 8 bytes
PFM_START = re.compile(rb"P[Ff]\s+(\d{1,9})\s+(\d{1,9})\s")
SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # of JPEG: start of frame
PROGRESSIVE_MARKERS = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
PLAIN_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # of JPEG: no length follows
MAX_MARKERS = 1 << 16  # before the size of a JPEG
COMPRESSED_CHUNKS = (b"iCCP", b"iTXt", b"zTXt")  # of PNG, besides the pixels
WIDTH_TAG, HEIGHT_TAG, BITS_TAG, ORIENTATION_TAG, SAMPLES_TAG = 256, 257, 258, 274, 277
SHORT = 3  # TIFF type: 16 bits
TIFF_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}  # integers
MAX_TAGS = 4096  # of a TIFF page; libtiff accepts no more


class ImageHeader(NamedTuple):
    """What the header of an image says.

    Attributes:
        width, height: as stored, before any rotation.
        orientation: EXIF orientation 1-8 of a JPEG or PNG; None for other formats, whose decoder applies it.
        pixel_bytes: bytes of a pixel when decoded to three channels.
        parts: scans of a progressive JPEG, or compressed texts of a PNG, each of which may take long to decode.
    """

    width: int
    height: int
    orientation: int | None = None
    pixel_bytes: int = 3
    parts: int = 0

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width after rotation."""
        swap = self.orientation is not None and self.orientation >= 5
        return (self.width, self.height) if swap else (self.height, self.width)


class TiffPage(NamedTuple):
    """Size of a page of a TIFF."""

    width: int
    height: int
    samples: int
    sample_bytes: int


def parse_header(data: memoryview) -> ImageHeader | None:
    """The header of an image file from its content; None if it is damaged or its format is not supported."""
    parse = _find_parser(data)
    try:
        header = None if parse is None else parse(data)
    except (struct.error, IndexError, OverflowError):  # the file ends within its header, or an offset is huge
        return None
    return header if header is not None and header.width > 0 and header.height > 0 else None


def parse_orientation(exif: memoryview) -> int:
    """EXIF orientation 1-8; 1 if there is none, or if its type or value is not as the standard says."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(exif[:2]))
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for k in range(count):
            tag, kind, length, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * k)
            if tag == ORIENTATION_TAG:
                return value if kind == SHORT and length == 1 and 1 <= value <= 8 else 1
    except (struct.error, OverflowError):
        pass
    return 1


def parse_tiff_pages(data: memoryview) -> Iterator[TiffPage]:
    """The pages of a TIFF in their order, possibly without end.

    Raises:
        struct.error, OverflowError: an offset is outside the file.
    """
    order = "<" if data[0] == ord("I") else ">"
    is_big = ord("+") in (data[2], data[3])
    offset, count, entry = ("Q", "Q", "HHQ") if is_big else ("I", "H", "HHI")
    field = struct.calcsize(f"<{offset}")  # bytes of a value or of the offset to it
    position = 8 if is_big else 4
    while start := struct.unpack_from(order + offset, data, position)[0]:
        (num_tags,) = struct.unpack_from(order + count, data, start)
        if num_tags > MAX_TAGS:
            return
        start += struct.calcsize(f"<{count}")
        values: dict[int, int] = {}
        for _ in range(num_tags):
            tag, kind, length = struct.unpack_from(order + entry, data, start)
            place = start + struct.calcsize(f"<{entry}")
            if tag in (WIDTH_TAG, HEIGHT_TAG, BITS_TAG, SAMPLES_TAG) and kind in TIFF_TYPES and tag not in values:
                if length * struct.calcsize(f"<{TIFF_TYPES[kind]}") > field:
                    (place,) = struct.unpack_from(order + offset, data, place)
                (values[tag],) = struct.unpack_from(order + TIFF_TYPES[kind], data, place)
            start += struct.calcsize(f"<{entry}") + field
        bits = values.get(BITS_TAG, 1)
        sample_bytes = next((size for size in (1, 2, 4) if bits <= 8 * size), 8)
        yield TiffPage(values.get(WIDTH_TAG, 0), values.get(HEIGHT_TAG, 0), values.get(SAMPLES_TAG, 1), sample_bytes)
        position = start


def is_tiff(data: memoryview) -> bool:
    """Whether the content of a file is a TIFF."""
    return TIFF_START.match(data[:4]) is not None


def _find_parser(data: memoryview) -> Callable[[memoryview], ImageHeader | None] | None:
    start = bytes(data[:32])
    if start.startswith(JPEG_START):
        return _parse_jpeg
    if start.startswith(PNG_START):
        return _parse_png
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return _parse_webp
    if start.startswith(BMP_START):
        return _parse_bmp
    if TIFF_START.match(start):
        return _parse_tiff
    if PFM_START.match(start):
        return _parse_pfm
    if start.startswith(b"GIF8"):  # not among the suffixes, but some files of web collections are named .jpg
        return _parse_gif
    if start[4:8] == b"ftyp" and (b"avif" in start or b"avis" in start):
        return _parse_avif
    return None


def _parse_jpeg(data: memoryview) -> ImageHeader | None:
    """Walk over the segments up to the one with the size (ITU-T T.81, B.2.2)."""
    position, orientation = 2, None
    for _ in range(MAX_MARKERS):
        mark, marker, length = struct.unpack_from(">BBH", data, position)
        if mark != 0xFF or marker in (0x00, 0xFF):  # bytes between segments, which decoders skip
            position += 1
        elif marker in PLAIN_MARKERS:
            position += 2
        elif marker in SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", data, position + 5)
            parts = bytes(data).count(b"\xff\xda") if marker in PROGRESSIVE_MARKERS else 0
            return ImageHeader(width, height, orientation or 1, parts=parts)
        elif marker in (0xD9, 0xDA):  # end of image, start of scan
            return None
        else:
            if marker == 0xE1 and orientation is None and data[position + 4 : position + 10] == b"Exif\0\0":
                orientation = parse_orientation(data[position + 10 : position + 2 + length])
            position += 2 + max(length, 2)
    return None


def _parse_png(data: memoryview) -> ImageHeader | None:
    """Walk over the chunks; None if one is longer than the file, for which decoders allocate memory all the same."""
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    if kind != b"IHDR":
        return None
    position, orientation, parts = len(PNG_START), None, 0
    while kind != b"IEND" and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if length > len(data):
            return None
        if kind == b"eXIf" and orientation is None:
            orientation = parse_orientation(data[position + 8 : position + 8 + length])
        parts += kind in COMPRESSED_CHUNKS
        position += 12 + length
    return ImageHeader(width, height, orientation or 1, parts=parts)


def _parse_webp(data: memoryview) -> ImageHeader | None:
    """Size of the canvas, or of the only frame (RFC 9649)."""
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[start : start + 3], "little") + 1 for start in (24, 27))
        return ImageHeader(width, height)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader(width & 0x3FFF, height & 0x3FFF)
    return None


def _parse_bmp(data: memoryview) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return ImageHeader(width, abs(height))  # rows of a negative height run from the top


def _parse_tiff(data: memoryview) -> ImageHeader | None:
    page = next(parse_tiff_pages(data), None)
    return None if page is None else ImageHeader(page.width, page.height, pixel_bytes=3 * page.sample_bytes)


def _parse_pfm(data: memoryview) -> ImageHeader | None:
    match = PFM_START.match(bytes(data[:32]))
    return None if match is None else ImageHeader(int(match[1]), int(match[2]), pixel_bytes=12)


def _parse_gif(data: memoryview) -> ImageHeader:
    return ImageHeader(*struct.unpack_from("<HH", data, 6))


def _parse_avif(data: memoryview) -> ImageHeader | None:
    start = bytes(data[:4096])
    place = start.find(b"ispe")  # image spatial extents (ISO/IEC 23008-12)
    return None if place < 0 else ImageHeader(*struct.unpack_from(">II", start, place + 8))
