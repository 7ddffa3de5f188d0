"""Sizes of images from their headers."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from utils.imaging.headers import ImageHeader, parse_header, parse_orientation, parse_tiff_pages

FRAME = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def encode(suffix: str, *options: int, frame: np.ndarray = FRAME) -> bytes:
    return cv2.imencode(suffix, frame, list(options))[1].tobytes()


FILES = {
    "jpeg": encode(".jpg"),
    "progressive jpeg": encode(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "png": encode(".png"),
    "bmp": encode(".bmp"),
    "tiff": encode(".tif"),
    "float tiff": encode(".tif", cv2.IMWRITE_TIFF_COMPRESSION, 1, frame=FRAME.astype(np.float32)),
    "lossy webp": encode(".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
    "lossless webp": encode(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    "pfm": encode(".pfm", frame=FRAME.astype(np.float32)),
}


@pytest.mark.parametrize("kind", sorted(FILES))
def test_size_of_every_format(kind: str) -> None:
    header = parse_header(memoryview(FILES[kind]))
    assert header is not None
    assert (header.width, header.height, header.size_hw) == (60, 40, (40, 60))
    assert header.orientation == (1 if kind.endswith(("jpeg", "png")) else None)
    assert header.pixel_bytes == (12 if kind in ("float tiff", "pfm") else 3)
    assert header.parts == (10 if kind == "progressive jpeg" else 0)


@pytest.mark.parametrize("kind", sorted(FILES))
def test_every_truncated_header_is_refused_or_read(kind: str) -> None:
    for length in range(300):
        header = parse_header(memoryview(FILES[kind][:length]))
        assert header is None or (header.width, header.height) == (60, 40)
    assert parse_header(memoryview(b"")) is None


def test_other_content_is_refused() -> None:
    for content in (
        b"text",
        bytes(100),
        b"P6\n60 40\n255\n" + bytes(9000),
        b"#?RADIANCE\n",
        b"\0\0\0\x0cjP  \r\n\x87\n",
    ):
        assert parse_header(memoryview(content)) is None


def test_jpeg_with_bytes_between_its_segments() -> None:
    whole = FILES["jpeg"]
    for filling in (b"\0\1\2", b"\xff\xff\xff", b"\xff\0", b"\xff\x01", b"\xff\xd0"):
        data = whole[:20] + filling + whole[20:]  # after the segment of JFIF
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        header = parse_header(memoryview(data))
        assert header is not None and header.size_hw == frame.shape[:2]
    assert parse_header(memoryview(whole[:20] + bytes(1 << 17) + whole[20:])) is None


def test_jpeg_without_a_size() -> None:
    whole = FILES["jpeg"]
    scan = whole[whole.index(b"\xff\xda") :]
    assert parse_header(memoryview(whole[:2] + scan)) is None
    assert parse_header(memoryview(b"\xff\xd8\xff\xd9" + whole)) is None
    start = whole.index(b"\xff\xc0") + 5
    assert parse_header(memoryview(whole[:start] + bytes(2) + whole[start + 2 :])) is None  # height 0


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
def test_tiff_pages(order: str, is_big: bool) -> None:
    mark = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if is_big else 42)
    data = bytearray(mark + (struct.pack(f"{order}HHQ", 8, 0, 16) if is_big else struct.pack(f"{order}I", 8)))
    for width, kind in ((60, "H"), (70, "I"), (80, "B")):
        tags = [(256, kind, width), (256, kind, 9), (257, kind, 40), (258, "H", 16), (277, "H", 4), (300, "x", 0)]
        data += struct.pack(f"{order}{'Q' if is_big else 'H'}", len(tags))
        for tag, form, value in tags:
            number = {"B": 1, "H": 3, "I": 4, "x": 2}[form]
            field = struct.pack(f"{order}{form if form != 'x' else 'B'}", value).ljust(8 if is_big else 4, b"\0")
            data += struct.pack(f"{order}HH{'Q' if is_big else 'I'}", tag, number, 1) + field
        following = len(data) + (8 if is_big else 4) if width < 80 else 0
        data += struct.pack(f"{order}{'Q' if is_big else 'I'}", following)
    assert list(parse_tiff_pages(memoryview(data))) == [(width, 40, 4, 2) for width in (60, 70, 80)]
    assert parse_header(memoryview(data)) == ImageHeader(60, 40, None, 6)


def test_tiff_pages_without_end() -> None:
    data = bytearray(FILES["tiff"])
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    pages = parse_tiff_pages(memoryview(data))
    assert [next(pages).width for _ in range(1000)] == [60] * 1000
    struct.pack_into("<I", data, start + 2 + 12 * count, 2**32 - 1)
    with pytest.raises(struct.error):
        list(parse_tiff_pages(memoryview(data)))


@pytest.mark.parametrize("exif", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"XX*\0\x08\0\0\0"])
def test_damaged_exif_means_no_rotation(exif: bytes) -> None:
    assert parse_orientation(memoryview(exif)) == 1
