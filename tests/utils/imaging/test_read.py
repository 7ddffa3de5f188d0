from __future__ import annotations

import os
import pickle
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from utils.core.errors import InputError
from utils.core.limits import NO_LIMITS
from utils.imaging.read import (
    ImageError,
    check_image,
    fit_channels,
    imwrite,
    read_image,
    read_image_size_hw,
    to_uint8,
)
from utils.imaging.semantic_files import read_semantic_mask


@pytest.fixture
def gradient() -> np.ndarray:
    """(40, 60, 3) BGR: blue grows to the right, green downwards, red is 200."""
    frame = np.full((40, 60, 3), 200, np.uint8)
    frame[..., 0] = np.arange(60) * 4
    frame[..., 1] = np.arange(40)[:, None] * 6
    return frame


def build_exif(value: int, order: str = "<", *, kind: int = 3, count: int = 1) -> bytes:
    """An EXIF structure with only the orientation tag."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, kind, count, value, 0, 0)


def add_exif(jpeg: bytes, exif: bytes) -> bytes:
    segment = b"Exif\0\0" + exif
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def with_orientation(jpeg: bytes, value: int, order: str = "<") -> bytes:
    """The JPEG with an EXIF segment that has only the orientation tag."""
    return add_exif(jpeg, build_exif(value, order))


def with_pillow_orientation(frame: np.ndarray, value: int) -> Image.Image:
    image = Image.fromarray(frame)
    image.getexif()[0x0112] = value
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_tiff(width: int, height: int, *, pages: int = 1, big: bool = False) -> bytes:
    """A TIFF whose pages share one strip of too few bytes."""
    field, offset, count = ("Q", 16, "Q") if big else ("I", 8, "H")
    data = bytearray(b"II+\0\x08\0\0\0" if big else b"II*\0") + bytes(offset - 4 if not big else 8)
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, height), (279, 0)]
    link = 8 if big else 4
    for _ in range(pages):
        struct.pack_into(f"<{field}", data, link, len(data))
        data += struct.pack(f"<{count}", len(tags))
        data += b"".join(struct.pack(f"<HH{field}{field}", tag, 4, 1, value) for tag, value in tags)
        link = len(data)
        data += bytes(8 if big else 4)
    return bytes(data)


def build_large_images(side: int = 32_700) -> dict[str, bytes]:
    """Small files that claim to be `side` pixels wide and high, by name."""
    jpeg = encode(np.zeros((8, 8), np.uint8), ".jpg")
    place = jpeg.index(b"\xff\xc0") + 5
    rows = zlib.compressobj(9)
    pixels = b"".join(rows.compress(bytes(1 + (side + 7) // 8)) for _ in range(side)) + rows.flush()
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">II5B", side, side, 1, 0, 0, 0, 0)) + chunk(b"IDAT", pixels)
    )
    canvas = (side - 1).to_bytes(3, "little")
    webp = b"VP8X" + struct.pack("<II", 10, 2) + canvas + canvas
    bmp = struct.pack("<2sIHHIIiiHH", b"BM", 100, 0, 0, 54, 40, side, -side, 1, 24) + bytes(100)
    return {
        "a.png": png + chunk(b"IEND", b""),
        "a.jpg": jpeg[:place] + struct.pack(">HH", side, side) + jpeg[place + 4 :],
        "a.webp": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
        "a.bmp": bmp,
        "os2.bmp": struct.pack("<2sIHHIIHHHH", b"BM", 100, 0, 0, 26, 12, side, side, 1, 24) + bytes(100),
        "a.tif": write_tiff(side, side),
        "big.tif": write_tiff(side, side, big=True),
        "a.dng": write_tiff(side, side),
        "a.pfm": f"PF\n{side} {side}\n-1.0\n".encode() + bytes(100),
        "gif.jpg": b"GIF89a" + struct.pack("<HH", side, side) + bytes(20),
        "avif.jpg": b"\0\0\0\x1cftypavif" + bytes(16) + b"ispe" + struct.pack(">III", 0, side, side) + bytes(100),
    }


def encode(frame: np.ndarray, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, frame, list(options))[1].tobytes()


LARGE_IMAGES = build_large_images()
PLAIN_TIFF = (cv2.IMWRITE_TIFF_COMPRESSION, 1)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_written_images_are_read_back(tmp_path: Path, gradient: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"naïve 画像{suffix}"
    imwrite(path, gradient, quality=100 if suffix in (".jpg", ".webp") else None)
    frame = read_image(path)
    assert frame.shape == (40, 60, 3)
    assert frame.dtype == np.uint8
    tolerance = 12 if suffix in (".jpg", ".webp") else 0
    assert np.abs(frame.astype(int) - gradient).max() <= tolerance
    assert read_image_size_hw(path) == (40, 60)
    assert check_image(path) == ((40, 60), None)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("value", "size_hw"), [(1, (40, 60)), (3, (40, 60)), (6, (60, 40)), (8, (60, 40))])
def test_exif_orientation_swaps_sizes(
    tmp_path: Path, gradient: np.ndarray, value: int, size_hw: tuple[int, int], order: str
) -> None:
    path = tmp_path / "rotated.jpg"
    path.write_bytes(with_orientation(encode(gradient, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100), value, order))
    frame = read_image(path)
    expected = np.rot90(gradient, {1: 0, 3: 2, 6: 3, 8: 1}[value])
    assert frame.shape[:2] == size_hw
    assert np.abs(frame.astype(int) - expected).max() <= 12
    assert read_image_size_hw(path) == size_hw
    assert check_image(path)[0] == size_hw


def test_unusual_pixels_become_bgr(tmp_path: Path, gradient: np.ndarray) -> None:
    alpha = np.dstack([gradient, np.zeros(gradient.shape[:2], np.uint8)])
    (tmp_path / "rgba.png").write_bytes(encode(alpha, ".png"))
    assert (read_image(tmp_path / "rgba.png") == gradient).all()
    deep = gradient.astype(np.uint16) * 256 + 255
    (tmp_path / "deep.png").write_bytes(encode(deep, ".png"))
    assert (read_image(tmp_path / "deep.png") == gradient).all()
    gray = gradient[..., 0]
    (tmp_path / "gray.png").write_bytes(encode(gray, ".png"))
    assert (read_image(tmp_path / "gray.png") == gray[..., None]).all()
    (tmp_path / "float.pfm").write_bytes(encode(gradient[..., 0].astype(np.float32) / 255, ".pfm"))
    assert (read_image(tmp_path / "float.pfm", channels=1)[..., 0] == gray).all()
    assert (read_image(tmp_path / "float.pfm") == gray[..., None]).all()
    (tmp_path / "float.tif").write_bytes(encode(gradient.astype(np.float32) / 255, ".tif"))
    assert (read_image(tmp_path / "float.tif") == gradient).all()
    assert check_image(tmp_path / "float.tif") == ((40, 60), None)


def test_palette_image(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    image = pillow.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20) % 2, mode="P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "palette.png")
    frame = read_image(tmp_path / "palette.png")
    assert frame[0, 0].tolist() == [30, 20, 10]
    assert frame[0, 1].tolist() == [50, 100, 200]


def test_one_channel_and_many(tmp_path: Path, gradient: np.ndarray) -> None:
    (tmp_path / "a.png").write_bytes(encode(gradient, ".png"))
    assert read_image(tmp_path / "a.png", channels=1).shape == (40, 60, 1)
    np.save(tmp_path / "ten.npy", np.ones((8, 9, 10), np.uint8))
    assert read_image(tmp_path / "ten.npy", channels=10).shape == (8, 9, 10)
    pages = [np.full((8, 9), k * 20, np.uint8) for k in range(5)]
    (tmp_path / "five.tiff").write_bytes(cv2.imencodemulti(".tiff", pages)[1].tobytes())
    frame = read_image(tmp_path / "five.tiff", channels=5)
    assert frame[3, 3].tolist() == [0, 20, 40, 60, 80]
    with pytest.raises(ImageError, match="has 10 channels, but the model expects 3"):
        read_image(tmp_path / "ten.npy")


def test_to_uint8() -> None:
    assert to_uint8(np.array([0, 256, 65535], np.uint16)).tolist() == [0, 1, 255]
    assert to_uint8(np.array([0, 0.5, 1])).tolist() == [0, 128, 255]
    assert to_uint8(np.array([-3, 7, 300.0, np.nan])).tolist() == [0, 7, 255, 0]
    assert to_uint8(np.array([False, True])).tolist() == [0, 255]
    assert to_uint8(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert to_uint8(np.array([-3e38, 0.5])).tolist() == [0, 128]
    assert to_uint8(np.array([1e300, -1e300])).tolist() == [255, 0]


def test_fit_channels_rejects_other_shapes() -> None:
    with pytest.raises(ImageError, match="array of shape"):
        fit_channels(np.zeros((2, 3, 4, 5), np.uint8), 3, "x.npy")


@pytest.mark.parametrize(("reduce_to", "longest"), [(1, 150), (150, 150), (151, 300), (600, 600), (1201, 1200)])
def test_reduced_decoding_never_undercuts(tmp_path: Path, reduce_to: int, longest: int) -> None:
    path = tmp_path / "large.jpg"
    imwrite(path, np.zeros((800, 1200, 3), np.uint8))
    assert max(read_image(path, reduce_to=reduce_to).shape) == longest


def test_reduction_is_for_jpeg_only(tmp_path: Path) -> None:
    imwrite(tmp_path / "large.png", np.zeros((80, 120, 3), np.uint8))
    assert read_image(tmp_path / "large.png", reduce_to=10).shape == (80, 120, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 bytes"), (b"this is text", "not an image"), (b"\xff\xd8\xff\xe0", "damaged")],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    for function in (read_image, check_image, read_image_size_hw):
        with pytest.raises(ImageError, match=reason) as caught:
            function(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image("a\0.jpg")  # a name from a list in UTF-16
    with pytest.raises(ImageError, match="Is a directory"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("suffix", [".jpg", ".npy"])
def test_pipes_are_not_waited_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    for function in (read_image, check_image, read_image_size_hw, read_semantic_mask):
        with pytest.raises(ImageError, match="not a regular file"):
            function(str(path))
    with pytest.raises(ImageError, match="not a regular file"):
        read_image("/dev/zero")


def test_file_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as stream:
        stream.truncate(2**33)
    with pytest.raises(ImageError, match=r"8,589,934,592 bytes, the limit is 1,073,741,824; use --no-limits"):
        read_image(path)
    monkeypatch.setattr("utils.imaging.read.MAX_FILE_BYTES", 100)
    imwrite(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ImageError, match="the limit is 100"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv(NO_LIMITS, "1")
    assert read_image(tmp_path / "a.png").shape == (40, 40, 3)


@pytest.mark.parametrize("name", sorted(LARGE_IMAGES))
def test_number_of_pixels_is_checked_before_decoding(tmp_path: Path, name: str) -> None:
    """Files of a few kilobytes that would need gigabytes of memory."""
    path = tmp_path / name
    path.write_bytes(LARGE_IMAGES[name])
    for function in (read_image, check_image, read_image_size_hw, read_semantic_mask):
        start = time.perf_counter()
        with pytest.raises(ImageError, match=r"1,069,290,000 pixels, the limit is [\d,]+; use --no-limits"):
            function(str(path))
        assert time.perf_counter() - start < 1
    assert len(LARGE_IMAGES[name]) < 200_000


def test_limit_counts_the_bytes_of_a_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.imaging.read.MAX_PIXELS", 1600)
    frame = np.zeros((40, 40, 3), np.float32)
    for name, data in (("byte.png", frame.astype(np.uint8)), ("byte.tif", frame.astype(np.uint8))):
        (tmp_path / name).write_bytes(encode(data, Path(name).suffix))
        assert read_image(tmp_path / name).shape == (40, 40, 3)
    np.save(tmp_path / "byte.npy", frame.astype(np.uint8))
    assert read_image(tmp_path / "byte.npy").shape == (40, 40, 3)
    for name in ("float.tif", "float.pfm"):
        (tmp_path / name).write_bytes(encode(frame, Path(name).suffix, *PLAIN_TIFF))
        with pytest.raises(ImageError, match="1,600 pixels, the limit is 400"):
            read_image(tmp_path / name)
    np.save(tmp_path / "float.npy", frame)
    with pytest.raises(ImageError, match="1,600 pixels, the limit is 400"):
        read_image(tmp_path / "float.npy")
    monkeypatch.setenv(NO_LIMITS, "1")
    assert read_image(tmp_path / "float.tif").shape == (40, 40, 3)


def test_pages_are_limited_to_the_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pages.tif"
    path.write_bytes(write_tiff(64, 64, pages=60_000))
    with pytest.raises(ImageError, match="has more than 5 pages, but the model expects 5 channels"):
        read_image(path, channels=5)
    pages = [np.full((8, 9), k, np.uint8) for k in range(5)]
    path.write_bytes(cv2.imencodemulti(".tiff", pages)[1].tobytes())
    monkeypatch.setattr("utils.imaging.read.MAX_PIXELS", 72)  # of three bytes, and these have five
    with pytest.raises(ImageError, match="72 pixels, the limit is 43"):
        read_image(path, channels=5)


def test_progressive_scans_are_limited(tmp_path: Path) -> None:
    """A megabyte of scans over a large image takes many minutes to decode."""
    whole = encode(np.zeros((64, 64), np.uint8), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    path = tmp_path / "scans.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (64, 64, 3)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    path.write_bytes(whole[:-2] + scan * 200 + whole[-2:])
    with pytest.raises(ImageError, match=r"20\d scans or compressed texts, the limit is 100; use --no-limits"):
        check_image(path)


def test_compressed_texts_are_limited(tmp_path: Path) -> None:
    whole = encode(np.zeros((20, 20), np.uint8), ".png")
    end_of_header = 8 + 25
    texts = b"".join(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1000))) for _ in range(101))
    path = tmp_path / "texts.png"
    path.write_bytes(whole[:end_of_header] + texts + whole[end_of_header:])
    with pytest.raises(ImageError, match="101 scans or compressed texts"):
        read_image(path)


@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt", b"IHDR"])
def test_chunks_longer_than_the_file(tmp_path: Path, kind: bytes) -> None:
    """A decoder that believes the length would allocate 4 GB."""
    whole = encode(np.zeros((20, 20), np.uint8), ".png")
    end_of_header = 8 if kind == b"IHDR" else 8 + 25
    path = tmp_path / "chunk.png"
    path.write_bytes(whole[:end_of_header] + b"\xff\xff\xff\xf0" + kind + bytes(40))
    for function in (read_image, check_image, read_image_size_hw, read_semantic_mask):
        with pytest.raises(ImageError, match="damaged, or not an image"):
            function(str(path))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        *(pytest.param(3, 1, value, id=f"value {value}") for value in (0, 9, 99, 65535)),
        *(pytest.param(kind, 1, 6, id=f"type {kind}") for kind in (0, 1, 2, 4, 5, 7, 12, 99)),
        *(pytest.param(3, count, 6, id=f"count {count}") for count in (0, 2, 2**32 - 1)),
    ],
)
def test_invalid_orientation_means_none(
    tmp_path: Path, gradient: np.ndarray, order: str, kind: int, count: int, value: int
) -> None:
    jpeg, png = encode(gradient, ".jpg"), encode(gradient, ".png")
    (tmp_path / "a.jpg").write_bytes(add_exif(jpeg, build_exif(value, order, kind=kind, count=count)))
    (tmp_path / "a.png").write_bytes(
        png[:33] + chunk(b"eXIf", build_exif(value, order, kind=kind, count=count)) + png[33:]
    )
    for path in (tmp_path / "a.jpg", tmp_path / "a.png"):
        assert read_image(path).shape == (40, 60, 3)
        assert read_image_size_hw(path) == (40, 60)
        assert check_image(path)[0] == (40, 60)


@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation(tmp_path: Path, gradient: np.ndarray, value: int) -> None:
    """As Pillow turns the image, whatever the number of channels or the reduction."""
    upright = np.asarray(ImageOps.exif_transpose(with_pillow_orientation(gradient, value)))
    png = encode(gradient, ".png")
    (tmp_path / "a.png").write_bytes(png[:33] + chunk(b"eXIf", build_exif(value)) + png[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright)
    assert read_image_size_hw(tmp_path / "a.png") == upright.shape[:2]
    rgba = encode(np.dstack([gradient, gradient[..., 0]]), ".png")
    (tmp_path / "b.png").write_bytes(rgba[:33] + chunk(b"eXIf", build_exif(value)) + rgba[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "b.png", channels=4)[..., :3], upright)
    (tmp_path / "a.jpg").write_bytes(with_orientation(encode(gradient, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100), value))
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - upright).max() <= 12
    reduced = read_image(tmp_path / "a.jpg", reduce_to=30)
    assert reduced.shape == (*(side // 2 for side in upright.shape[:2]), 3)


def test_header_and_decoder_agree_on_mutated_exif(tmp_path: Path, gradient: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    jpeg, exif = encode(gradient, ".jpg"), build_exif(6)
    sizes = set()
    for _ in range(300):
        blob = bytearray(exif)
        for position in rng.integers(0, len(blob), rng.integers(1, 4)):
            blob[position] = rng.choice([0, 1, 2, 3, 6, 255, rng.integers(256)])
        path = tmp_path / "a.jpg"
        path.write_bytes(add_exif(jpeg, bytes(blob)))
        sizes.add(read_image_size_hw(path))
        assert read_image(path).shape[:2] == check_image(path)[0] == read_image_size_hw(path)
    assert sizes == {(40, 60), (60, 40)}


def save_array(path: Path, header: str, *, version: int = 1, length: int | None = None, values: int = 4096) -> None:
    """An array file with any header."""
    size = len(header) if length is None else length
    start = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size)
    path.write_bytes(start + header.encode() + bytes(values))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (20, 20), }", "an array of type object, expected integers"),
        ("{'descr': '<U4', 'fortran_order': False, 'shape': (20, 20), }", "an array of type <U4, expected"),
        ("{'descr': '<c8', 'fortran_order': False, 'shape': (20, 20), }", "an array of type complex64, expected"),
        ("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (20, 20), }", "an array of type datetime64"),
        ("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (20, 20), }", "an array of type"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 20), }", r"shape \(0, 20\), expected positive"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 20), }", r"shape \(-1, 20\), expected positive"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (True, 20), }", r"shape \(True, 20\), expected positive"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (99999, 99999), }", "truncated: an array of shape"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 4000 + ", 9), }", "truncated: an array of"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ", 9), }", "not a readable array file"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (20, 20), ", "not a readable array file"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 9000, "not a readable array file"),
        ("-" * 9000 + "1", "not a readable array file"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (20,), }", "not an array of shape"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (), }", "not an array of shape"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2, 2), }", "not an array of shape"),
        ("{}", "not a readable array file"),
    ],
)
def test_unusable_arrays(tmp_path: Path, header: str, reason: str) -> None:
    path = tmp_path / "a.npy"
    save_array(path, header)
    for function in (read_image, check_image, read_image_size_hw):
        with pytest.raises(ImageError, match=reason):
            function(path)


def test_unusual_array_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (20, 20), }"
    save_array(path, header, version=2)
    assert read_image_size_hw(path) == (20, 20)
    save_array(path, header, version=2, length=2**32 - 1)  # a header of 4 GB
    with pytest.raises(ImageError, match="not a readable array file"):
        check_image(path)
    save_array(path, header, version=9)
    with pytest.raises(ImageError, match="format version"):
        check_image(path)
    for content in (b"", b"PK\3\4 no zip file", b"PK\5\6" + bytes(18), b"\x80\x04\x95pickle", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(ImageError, match="not a readable array file"):
            check_image(path)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">u2", "<u2", ">i4", "u8", "f2", ">f4", "f8", "g"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_type_and_order(tmp_path: Path, dtype: str, order: str) -> None:
    values = np.arange(24).reshape(2, 4, 3) % 2
    scale = {"?": 255, ">u2": 1 / 256, "<u2": 1 / 256, "f2": 255, ">f4": 255, "f8": 255, "g": 255}.get(dtype, 1)
    np.save(tmp_path / "a.npy", np.asarray(values, dtype, order=order))  # type: ignore[call-overload]
    frame = read_image(tmp_path / "a.npy")
    assert frame.tolist() == (values * scale).astype(int).tolist()
    assert check_image(tmp_path / "a.npy") == ((2, 4), None)


def test_truncated_jpeg_is_used_if_half_is_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 300, 3), np.uint8)
    whole = encode(noise, ".jpg")
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    size_hw, warning = check_image(path)
    assert size_hw == (400, 300)
    assert warning is not None
    missing = int(warning.split("about ")[1].split("%")[0])
    assert 24 <= missing <= 26
    warnings: list[str] = []
    frame = read_image(path, warn=warnings.append)
    assert len(warnings) == 1 and "missing and shown gray; used" in warnings[0]
    assert frame[:250].std() > 30
    assert frame[-20:].std() == 0
    assert path.read_bytes() == whole[: len(whole) * 3 // 4]  # the file on disk is unchanged
    path.write_bytes(whole[: len(whole) // 4])
    for function in (check_image, read_image):
        with pytest.raises(ImageError, match=r"truncated, about 7.% of the image is missing"):
            function(path)
    (tmp_path / "cut.png").write_bytes(encode(noise, ".png")[:5000])
    with pytest.raises(ImageError, match="damaged"):
        check_image(tmp_path / "cut.png")


def test_image_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "broken")))  # as from a worker process
    assert (error.path, error.reason, str(error)) == ("a.jpg", "broken", "a.jpg: broken")


def test_imwrite_rejects_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write images of type '\.xyz'; choose jpg"):
        imwrite(tmp_path / "a.xyz", np.zeros((4, 4, 3), np.uint8))


def test_imwrite_rejects_sizes_that_the_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wide\.jpg: a \.jpg file cannot hold an image of 65501x1 pixels"):
        imwrite(tmp_path / "wide.jpg", np.zeros((1, 65501, 3), np.uint8))
