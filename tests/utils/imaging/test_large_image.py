"""Reading parts of large images; needs pyvips for all but the first test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from utils.datasets.sources.media import MediaSource
from utils.imaging import large_image
from utils.imaging.large_image import LargeImage, open_large_image
from utils.imaging.read import ImageError, read_image
from utils.ops.tiles import compute_windows


def write_image(file: Path, frame: np.ndarray, params: list[int] | None = None) -> Path:
    assert cv2.imwrite(str(file), frame, params or [])
    return file


@pytest.fixture
def noise() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 255, (100, 150, 3), dtype=np.uint8), (750, 500))


def test_limit_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: np.ndarray) -> None:
    file = write_image(tmp_path / "a.png", noise)
    monkeypatch.setitem(sys.modules, "pyvips", None)  # as if it were not installed
    monkeypatch.setattr("utils.imaging.read.MAX_PIXELS", 1000)
    source = MediaSource([str(file)], in_parts=True)
    assert list(source.batches()) == []
    assert len(source.problems) == 1 and "pip install 'pyvips[binary]'" in source.problems[0]


@pytest.fixture
def pyvips() -> Any:
    return pytest.importorskip("pyvips", reason="pyvips is not installed")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.7])
def test_tiles_equal_the_decoded_image(
    pyvips: Any, tmp_path: Path, noise: np.ndarray, suffix: str, overlap: float
) -> None:
    lossless = suffix in (".png", ".tif")
    file = write_image(
        tmp_path / f"a{suffix}", noise, [] if lossless or suffix == ".jpg" else [cv2.IMWRITE_WEBP_QUALITY, 101]
    )
    decoded = read_image(file)
    image = LargeImage(file)
    assert image.shape == decoded.shape and image.size_hw == (500, 750)
    windows = compute_windows((500, 750), (128, 128), overlap)
    tiles = list(image.read_tiles(windows))
    assert len(tiles) == len(windows)
    for (window, tile), expected in zip(tiles, windows, strict=True):
        x1, y1, x2, y2 = expected
        assert (window == expected).all()
        difference = np.abs(tile.astype(int) - decoded[y1:y2, x1:x2])
        assert difference.max() <= (0 if lossless else 12)  # JPEG decoders differ in chroma upsampling
    part = image.read(100, 50, 300, 90)
    assert np.abs(part.astype(int) - decoded[50:90, 100:300]).max() <= (0 if lossless else 12)
    assert image.read(10, 10, 10, 20).shape == (10, 0, 3)


def test_gray_and_16_bit(pyvips: Any, tmp_path: Path) -> None:
    deep = np.arange(300 * 200, dtype=np.uint16).reshape(300, 200)
    file = write_image(tmp_path / "deep.tif", deep)
    (_, tile), *_ = LargeImage(file, channels=1).read_tiles(np.array([[0, 0, 200, 300]]))
    assert (tile[..., 0] == deep >> 8).all()
    (_, tile), *_ = LargeImage(file).read_tiles(np.array([[0, 0, 200, 300]]))
    assert tile.shape == (300, 200, 3) and (tile == (deep >> 8)[..., None]).all()


def test_exif_rotation(pyvips: Any, tmp_path: Path, noise: np.ndarray) -> None:
    from PIL import Image

    photo = Image.fromarray(noise)
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "r.jpg", exif=exif, quality=95, subsampling=0)
    expected = read_image(tmp_path / "r.jpg")
    image = LargeImage(tmp_path / "r.jpg")
    assert image.shape == expected.shape == (750, 500, 3)
    (_, tile), *_ = image.read_tiles(np.array([[0, 0, 500, 750]]))
    assert np.abs(tile.astype(int) - expected).max() <= 12


def test_overview_is_shrunk(pyvips: Any, tmp_path: Path, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_image, "OVERVIEW_SIDE", 150)
    image = LargeImage(write_image(tmp_path / "a.png", noise))
    assert image.overview.shape == (100, 150, 3)
    expected = cv2.resize(noise, (150, 100), interpolation=cv2.INTER_AREA)
    assert np.abs(image.overview.astype(int) - expected).mean() < 6


def test_small_and_unknown_files_are_decoded_at_once(pyvips: Any, tmp_path: Path, noise: np.ndarray) -> None:
    assert open_large_image(write_image(tmp_path / "a.png", noise), 3) is None
    assert open_large_image(write_image(tmp_path / "a.bmp", noise), 3) is None
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert open_large_image(tmp_path / "broken.png", 3) is None
    assert open_large_image(tmp_path / "missing.tif", 3) is None
    with pytest.raises(ImageError, match=r"broken\.png: cannot be read in parts"):
        LargeImage(tmp_path / "broken.png")


def test_truncated_file_is_reported(pyvips: Any, tmp_path: Path, noise: np.ndarray) -> None:
    file = write_image(tmp_path / "a.jpg", noise)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"a\.jpg: cannot be read in parts"):
        list(LargeImage(file).read_tiles(compute_windows((500, 750), (250, 250), 0.0)))


def test_limit_of_pixels(pyvips: Any, tmp_path: Path, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_image(tmp_path / "a.png", noise)
    monkeypatch.setattr(large_image, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="375,000 pixels, the limit is 1,000"):
        LargeImage(file)
