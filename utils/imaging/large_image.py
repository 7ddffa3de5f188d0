"""Images that are too large to be decoded at once, read in parts with pyvips (an optional package)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.core.limits import describe_excess
from utils.imaging.read import ImageError, fit_channels, to_uint8

LOADERS = {
    ".jpeg": "jpegload", ".jpg": "jpegload", ".png": "pngload", ".tif": "tiffload", ".tiff": "tiffload",
    ".webp": "webpload",
}  # fmt: skip
DTYPES = {"uchar": np.uint8, "ushort": np.uint16}  # by pyvips' name; other types are scaled by their extremes
MIN_PIXELS = 2**26  # an image of fewer is decoded at once: 200 MB of three bytes
MAX_PIXELS = 2**36
OVERVIEW_SIDE = 4096
BAND = 32  # rows that are decoded at a time
PACKAGE = "pyvips[binary]"


class LargeImage:
    """A file whose pixels are read as they are needed.

    Args:
        path: a JPEG, PNG, TIFF or WebP.
        channels: of the network input, 1 or 3.

    Attributes:
        shape: height, width and channels, after EXIF rotation.

    Raises:
        ImageError: not such an image, or too many pixels.
        ModuleNotFoundError: pyvips is missing.
    """

    def __init__(self, path: str | Path, channels: int = 3) -> None:
        self.path, self.channels = str(path), channels
        header = self._open(random_access=False)
        if excess := describe_excess("pixels", header.width * header.height, MAX_PIXELS):
            raise ImageError(path, excess)
        self.shape = (int(header.height), int(header.width), channels)
        self._format = header.format

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.shape[0], self.shape[1]

    @cached_property
    def overview(self) -> np.ndarray:
        """The whole image (h, w, C) uint8, shrunk to at most 4096 pixels a side; BGR if C = 3."""
        import pyvips

        try:
            small = pyvips.Image.thumbnail(self.path, OVERVIEW_SIDE, height=OVERVIEW_SIDE, size="down")
            return self._to_frame(small.numpy())
        except pyvips.Error as error:
            raise self._explain(error) from error

    def read_tiles(self, windows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Windows (4,) and their pixels (h, w, C), in one pass over the file.

        Args:
            windows: (n, 4) x1, y1, x2, y2, row by row from the top; those of a row have the same height.
        """
        import pyvips

        try:
            region = pyvips.Region.new(self._open(random_access=False))
            rows = np.empty((int((windows[:, 3] - windows[:, 1]).max()), *self.shape[1:]), np.uint8)
            top = bottom = 0  # of the rows in memory
            for (y1, y2), group in groupby(windows, key=lambda window: (int(window[1]), int(window[3]))):
                rows[: bottom - y1] = rows[y1 - top : bottom - top].copy()
                for y in range(bottom, y2, BAND):  # in place: large blocks that come and go fragment the memory
                    end = min(y + BAND, y2)
                    rows[y - y1 : end - y1] = self._fetch(region, 0, y, self.shape[1], end)
                top, bottom = y1, y2
                for window in group:
                    yield window, np.ascontiguousarray(rows[: y2 - y1, int(window[0]) : int(window[2])])
        except pyvips.Error as error:
            raise self._explain(error) from error

    def read(self, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Pixels (h, w, C) of a part; the first call decodes a file without random access to a temporary file."""
        import pyvips

        try:
            return self._fetch(self._region, x1, y1, x2, y2)
        except pyvips.Error as error:
            raise self._explain(error) from error

    @cached_property
    def _region(self) -> Any:
        import pyvips

        return pyvips.Region.new(self._open(random_access=True))

    def _fetch(self, region: Any, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Pixels (y2 - y1, x2 - x1, C) of a region."""
        if y2 <= y1 or x2 <= x1:
            return np.zeros((max(y2 - y1, 0), max(x2 - x1, 0), self.channels), np.uint8)
        data = np.frombuffer(region.fetch(x1, y1, x2 - x1, y2 - y1), DTYPES[self._format])
        return self._to_frame(data.reshape(y2 - y1, x2 - x1, -1))

    def _open(self, *, random_access: bool) -> Any:
        """The image, upright and in sRGB or gray; only its header is read here."""
        import pyvips

        loader = LOADERS.get(Path(self.path).suffix.lower())
        if loader is None:
            raise ImageError(self.path, f"cannot be read in parts; give one of {', '.join(sorted(LOADERS))}")
        try:
            load = getattr(pyvips.Image, loader)
            image = load(self.path, access="random" if random_access else "sequential", fail_on="truncated")
            if image.get_typeof("orientation") and image.get("orientation") > 1:  # needs pixels from everywhere
                image = load(self.path, access="random", fail_on="truncated").autorot()
            if image.format not in DTYPES:
                raise ImageError(self.path, f"pixels of type {image.format} cannot be read in parts")
            return image.colourspace("srgb") if image.interpretation in ("cmyk", "lab") else image
        except pyvips.Error as error:
            raise self._explain(error) from error

    def _to_frame(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, C) uint8, BGR if C = 3, from pixels (h, w, bands) of any type, RGB."""
        pixels = to_uint8(pixels if pixels.ndim == 3 else pixels[..., None])
        color = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
        if color.shape[2] == 3:
            color = cv2.cvtColor(color, cv2.COLOR_RGB2BGR)
        return fit_channels(color, self.channels, self.path)

    def _explain(self, error: Exception) -> ImageError:
        reason = " ".join(str(getattr(error, "detail", error) or error).split())
        return ImageError(self.path, f"cannot be read in parts ({reason})")


def open_large_image(path: str | Path, channels: int) -> LargeImage | None:
    """The image if it has so many pixels that it should be read in parts, and pyvips can do that; else None."""
    if channels not in (1, 3) or Path(path).suffix.lower() not in LOADERS:
        return None
    try:
        image = LargeImage(path, channels)
    except (ImportError, OSError):  # OSError: libvips is missing
        return None
    except ImageError:  # `read_image` says why
        return None
    return image if image.shape[0] * image.shape[1] >= MIN_PIXELS else None
