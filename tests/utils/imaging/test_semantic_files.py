"""Files of semantic masks that are damaged, large or of another kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.core.limits import NO_LIMITS
from utils.imaging.read import ImageError
from utils.imaging.semantic_files import read_semantic_mask

VALUES = np.arange(600, dtype=np.uint8).reshape(20, 30) % 4


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_values_are_read_from_every_lossless_format(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(VALUES)
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.save(path)
    np.testing.assert_array_equal(read_semantic_mask(str(path)), VALUES)


def test_pixels_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(VALUES).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's limit is lower than that of images
    assert read_semantic_mask(str(path)).shape == (20, 30)
    monkeypatch.setattr("utils.imaging.read.MAX_PIXELS", 599)
    with pytest.raises(ImageError, match=r"cannot read the semantic mask \(600 pixels, the limit is 599; use --no-l"):
        read_semantic_mask(str(path))
    monkeypatch.setenv(NO_LIMITS, "1")
    assert read_semantic_mask(str(path)).shape == (20, 30)


def test_pillows_own_limit_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(VALUES).save(tmp_path / "a.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"cannot read the semantic mask \(Image size \(600 pixels\) exceeds"):
        read_semantic_mask(str(tmp_path / "a.tif"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow about metadata
@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif"])
def test_mutated_masks_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(VALUES).save(path)
    rng, whole = np.random.default_rng(0), path.read_bytes()
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), rng.integers(1, 4)):
            data[position] = rng.choice([0, 1, 127, 255, rng.integers(256)])
        path.write_bytes(data[: rng.integers(4, len(data) + 1)] if rng.random() < 0.2 else data)
        try:
            assert read_semantic_mask(str(path)).dtype == np.uint8
        except ImageError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert 30 < refused < 300
