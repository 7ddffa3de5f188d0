from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.core.errors import InputError
from utils.imaging.read import (
    ImageError,
    check_image,
    fit_channels,
    imwrite,
    parse_header_size_hw,
    read_image,
    read_image_size_hw,
    to_uint8,
)


@pytest.fixture
def gradient() -> np.ndarray:
    """(40, 60, 3) BGR: blue grows to the right, green downwards, red is 200."""
    frame = np.full((40, 60, 3), 200, np.uint8)
    frame[..., 0] = np.arange(60) * 4
    frame[..., 1] = np.arange(40)[:, None] * 6
    return frame


def with_orientation(jpeg: bytes, value: int, order: str = "<") -> bytes:
    """The JPEG with an EXIF segment that has only the orientation tag."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    tiff = mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def encode(frame: np.ndarray, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, frame, list(options))[1].tobytes()


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


def test_size_comes_from_the_header_of_jpeg_and_png(gradient: np.ndarray) -> None:
    assert parse_header_size_hw(io.BytesIO(encode(gradient, ".jpg")[:700])) == (40, 60)
    assert parse_header_size_hw(io.BytesIO(encode(gradient, ".png"))) == (40, 60)
    assert parse_header_size_hw(io.BytesIO(encode(gradient, ".bmp"))) is None
    assert parse_header_size_hw(io.BytesIO(b"\xff\xd8\xff")) is None
    assert parse_header_size_hw(io.BytesIO(b"")) is None


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
