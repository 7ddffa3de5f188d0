"""Read and write image files; images are always uint8, upright and of the requested number of channels."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.limits import describe_excess
from utils.imaging.array_files import ArrayHeader, read_array, read_array_header
from utils.imaging.console import decoder_output
from utils.imaging.headers import JPEG_START, ImageHeader, is_tiff, parse_header, parse_tiff_pages

Warn = Callable[[str], object]
IMAGE_SUFFIXES = frozenset({".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".npy", ".pfm", ".png", ".tif", ".tiff", ".webp"})
MAX_FILE_BYTES = 2**30
MAX_PIXELS = 2**28  # 16,384 x 16,384 of three bytes; images with larger pixels have fewer
MAX_PARTS = 100  # scans of a progressive JPEG or compressed texts of a PNG; about ten are common
MAX_MISSING = 0.5  # share of a truncated image that may be missing
JPEG_END = b"\xff\xd9"
FLOAT_STARTS = (b"PF", b"Pf", b"II*\0", b"MM\0*")  # PFM and TIFF: pixels may be floats
_REDUCED = (  # divisor, color flag, gray flag
    (8, cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # by EXIF orientation
    2: lambda frame: cv2.flip(frame, 1),
    3: lambda frame: cv2.rotate(frame, cv2.ROTATE_180),
    4: lambda frame: cv2.flip(frame, 0),
    5: cv2.transpose,
    6: lambda frame: cv2.rotate(frame, cv2.ROTATE_90_CLOCKWISE),
    7: lambda frame: cv2.flip(cv2.transpose(frame), -1),
    8: lambda frame: cv2.rotate(frame, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


class ImageError(InputError):
    """The image at `path` cannot be used, for this `reason`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # for exceptions from worker processes


class TooLargeError(ImageError):
    """The file or the image is over a limit."""


def read_image(
    path: str | Path, *, channels: int = 3, reduce_to: int | None = None, warn: Warn | None = None
) -> np.ndarray:
    """Read an image as (H, W, channels) uint8, BGR for three channels, rotated as its EXIF tag says.

    Palettes are resolved, transparency is dropped, 16-bit values keep their upper byte, floats are scaled from 0-1
    (from 0-255 if any exceeds 1). One and three channels convert into each other; other numbers need a .npy file, a
    multi-page TIFF (a page per channel) or a file that stores that many.

    Args:
        reduce_to: decode a JPEG at 1/2, 1/4 or 1/8 of its size, if its longer side keeps at least this many pixels;
            saves most of the inverse transform.
        warn: called with a message if a part of the image is missing.

    Raises:
        ImageError: the file is unreadable, empty, not an image, mostly missing, or has another number of channels.
    """
    if _is_array_file(path):
        return fit_channels(_read_npy(path), channels, path)
    return decode_image(read_bytes(path), path, channels=channels, reduce_to=reduce_to, warn=warn)


def decode_image(
    data: np.ndarray,
    path: str | Path,
    *,
    channels: int = 3,
    reduce_to: int | None = None,
    warn: Warn | None = None,
) -> np.ndarray:
    """As `read_image`, from the content (bytes,) uint8 of a file; `path` is for messages."""
    header = check_header(data, path)
    if channels not in (1, 3):
        return fit_channels(_decode_many_channels(data, header, channels, path), channels, path)
    flags = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    if reduce_to is not None and is_jpeg(data):
        flags = _reduced_flags(header, reduce_to, channels)
    # `check_image` measures the missing part coarsely
    frame, warning = _decode(data, header, flags, path, max_missing=MAX_MISSING + 0.05)
    if warning and warn is not None:
        warn(warning)
    return frame if frame.ndim == channels == 3 else fit_channels(frame, channels, path)


def read_bytes(path: str | Path) -> np.ndarray:
    """Read a non-empty file as (bytes,) uint8. Takes any file name, unlike `cv2.imread` on Windows."""
    with open_regular_file(path) as stream:
        try:
            data = stream.read()
        except (OSError, MemoryError) as error:
            raise ImageError(path, getattr(error, "strerror", None) or "is larger than the free memory") from error
    if not data:
        raise ImageError(path, "empty file (0 bytes)")
    return np.frombuffer(data, np.uint8)


def open_regular_file(path: str | Path) -> BinaryIO:
    """Open a file for reading, but no pipe or device, whose end may never come, and no file over the size limit."""
    try:
        stream = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    except (OSError, ValueError) as error:  # ValueError: the name has a null byte
        raise ImageError(path, getattr(error, "strerror", None) or f"cannot be read ({error})") from error
    status = os.fstat(stream.fileno())
    is_regular = stat.S_ISREG(status.st_mode)
    reason = describe_excess("bytes", status.st_size, MAX_FILE_BYTES) if is_regular else "not a regular file"
    if reason is not None:
        stream.close()
        raise (TooLargeError if is_regular else ImageError)(path, reason)
    return stream


def check_header(data: np.ndarray, path: str | Path) -> ImageHeader:
    """The header of an image from the content (bytes,) uint8 of its file.

    Raises:
        ImageError: not an image in a supported format, or its pixels exceed the limit.
    """
    header = parse_header(data.data)
    if header is None:
        raise ImageError(path, "damaged, or not an image in a known format")
    _check_pixels(path, header.width * header.height, header.pixel_bytes)
    if excess := describe_excess("scans or compressed texts", header.parts, MAX_PARTS):
        raise ImageError(path, excess)
    return header


def decode(
    data: np.ndarray, flags: int, path: str | Path, *, max_missing: float = MAX_MISSING
) -> tuple[np.ndarray, str | None]:
    """Decode an image to uint8; a truncated JPEG as far as its data go, with a warning (else None).

    Raises:
        ImageError: not an image, over the limit, or a share of more than `max_missing` is missing.
    """
    return _decode(data, check_header(data, path), flags, path, max_missing=max_missing)


def check_image(path: str | Path) -> tuple[tuple[int, int], str | None]:
    """Decode an image (a JPEG at 1/8 of its size) to verify it; return its upright size_hw and a warning or None.

    Raises:
        ImageError: the image cannot be used, or more than half of it is missing.
    """
    if _is_array_file(path):
        return read_image_size_hw(path), None
    data = read_bytes(path)
    header = check_header(data, path)
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 if is_jpeg(data) else cv2.IMREAD_COLOR
    frame, warning = _decode(data, header, flags, path, max_missing=MAX_MISSING)
    return header.size_hw if is_jpeg(data) else frame.shape[:2], warning


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Convert values to 0-255: upper byte of 16 bits, floats times 255 if none exceeds 1, others clipped."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    np.nan_to_num(values, copy=False)  # in place, as arrays may be large
    top = 1 if np.issubdtype(array.dtype, np.floating) and values.size and values.max() <= 1 else 255
    np.clip(values, 0, top, out=values)
    if top == 1:
        values *= 255
    return np.rint(values, out=values).astype(np.uint8)


def fit_channels(frame: np.ndarray, channels: int, path: str | Path) -> np.ndarray:
    """Convert (H, W) or (H, W, C) to (H, W, channels): gray to color or back, without an alpha channel.

    Raises:
        ImageError: the numbers of channels differ in another way.
    """
    frame = frame[..., None] if frame.ndim == 2 else frame
    if frame.ndim != 3:
        raise ImageError(path, f"array of shape {frame.shape}, expected (height, width) or (height, width, channels)")
    current = frame.shape[2]
    if current == channels:
        return np.ascontiguousarray(frame)
    if channels == 3 and current in (1, 4):
        return cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if current == 1 else np.ascontiguousarray(frame[..., :3])
    if channels == 1 and current in (3, 4):
        return cv2.cvtColor(np.ascontiguousarray(frame[..., :3]), cv2.COLOR_BGR2GRAY)[..., None]
    raise ImageError(path, f"has {current} channels, but the model expects {channels}")


def read_image_size_hw(path: str | Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` returns it, from the header of a JPEG, PNG or array file.

    Raises:
        ImageError: as `read_image`.
    """
    if _is_array_file(path):
        with open_regular_file(path) as stream:
            height, width = _read_npy_header(stream, path).shape[:2]
        return height, width
    data = read_bytes(path)
    header = check_header(data, path)
    if header.orientation is not None:
        return header.size_hw
    height, width = decode_image(data, path).shape[:2]
    return height, width


def imwrite(path: str | Path, frame: np.ndarray, *, quality: int | None = None) -> None:
    """Write a BGR or gray uint8 image in the format of the suffix. Takes any file name.

    Args:
        quality: of a JPEG or WebP, 1-100; None for the encoder's default.

    Raises:
        InputError: the format cannot be written, or not at this size.
        OSError: the file cannot be written; no partial file remains.
    """
    suffix = Path(path).suffix
    flags = {".webp": cv2.IMWRITE_WEBP_QUALITY}.get(suffix.lower(), cv2.IMWRITE_JPEG_QUALITY)
    try:
        written, data = cv2.imencode(suffix, frame, [] if quality is None else [flags, quality])
    except cv2.error as error:
        raise InputError(f"{path}: cannot write images of type {suffix!r}; choose jpg, png or tif") from error
    if not written:
        height, width = frame.shape[:2]
        raise InputError(f"{path}: a {suffix} file cannot hold an image of {width}x{height} pixels; split the image")
    try:
        Path(path).write_bytes(data.data)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise


def is_jpeg(data: np.ndarray) -> bool:
    """Whether the content of a file is a JPEG."""
    return data[:2].tobytes() == JPEG_START


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # otherwise opening a pipe waits for its writer


def _check_pixels(path: str | Path, pixels: int, pixel_bytes: int) -> None:
    """ImageError if an image has more pixels of this size than the limit."""
    if excess := describe_excess("pixels", pixels, MAX_PIXELS * 3 // max(pixel_bytes, 3)):
        raise TooLargeError(path, excess)


def _is_array_file(path: str | Path) -> bool:
    return str(path).lower().endswith(".npy")


def _decode(
    data: np.ndarray, header: ImageHeader, flags: int, path: str | Path, *, max_missing: float
) -> tuple[np.ndarray, str | None]:
    frame = _imdecode(data, header, flags)
    if frame is not None:
        return frame, None
    frame = _imdecode(_with_end_marker(data), header, flags) if is_jpeg(data) else None
    if frame is None:
        raise ImageError(path, "damaged, or not an image in a known format")
    missing = _blank_fraction(frame)
    if missing > max_missing:
        raise ImageError(path, f"truncated, about {missing:.0%} of the image is missing")
    return frame, f"truncated, about {missing:.0%} of the image is missing and shown gray; used"


def _imdecode(data: np.ndarray, header: ImageHeader, flags: int) -> np.ndarray | None:
    if data[:4].tobytes().startswith(FLOAT_STARTS):
        flags |= cv2.IMREAD_ANYDEPTH  # otherwise OpenCV casts 0.7 to 0
    if header.orientation is not None:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION  # versions differ in what they make of an invalid tag
    try:
        with decoder_output():
            frame = cv2.imdecode(data, flags)
    except cv2.error:
        return None
    if frame is None:
        return None
    if header.orientation in _UPRIGHT:
        frame = _UPRIGHT[header.orientation](frame)
    return frame if frame.dtype == np.uint8 else to_uint8(frame)


def _with_end_marker(data: np.ndarray) -> np.ndarray:
    return np.append(data, np.frombuffer(JPEG_END, np.uint8))


def _blank_fraction(frame: np.ndarray) -> float:
    """Fraction of the image that the longest run of blank rows or columns at one of its borders covers."""
    gray = frame if frame.ndim == 2 else frame[..., 0]
    runs = []
    for rotated in (gray, gray[::-1], gray.T, gray.T[::-1]):  # EXIF rotation may move the missing part
        blank = (rotated == rotated[0, 0]).all(axis=1)
        runs.append((len(blank) if blank.all() else int(blank.argmin())) / len(blank))
    return max(runs)


def _read_npy(path: str | Path) -> np.ndarray:
    with open_regular_file(path) as stream:
        header = _read_npy_header(stream, path)
        return to_uint8(read_array(stream, header))


def _read_npy_header(stream: BinaryIO, path: str | Path) -> ArrayHeader:
    """The header of an array file that holds an image; ImageError if it does not."""
    try:
        header = read_array_header(stream)
    except ValueError as error:
        raise ImageError(path, str(error)) from error
    if len(header.shape) not in (2, 3):
        raise ImageError(path, "not an array of shape (height, width) or (height, width, channels)")
    height, width, *channels = header.shape
    _check_pixels(path, height * width, header.dtype.itemsize * (channels[0] if channels else 1))
    return header


def _decode_many_channels(data: np.ndarray, header: ImageHeader, channels: int, path: str | Path) -> np.ndarray:
    """An image of any number of channels; the pages of a TIFF are stacked along them."""
    try:
        if is_tiff(data.data):
            _check_pages(data, channels, path)
            with decoder_output():
                _, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
        else:
            with decoder_output():
                frame = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            pages = [] if frame is None else [_UPRIGHT.get(header.orientation or 1, np.asarray)(frame)]
    except cv2.error:
        pages = []
    if not pages:
        raise ImageError(path, "damaged, or not an image in a known format")
    if len({page.shape[:2] for page in pages}) > 1:
        raise ImageError(path, f"its {len(pages)} pages differ in size")
    return to_uint8(pages[0] if len(pages) == 1 else np.dstack(pages))


def _check_pages(data: np.ndarray, channels: int, path: str | Path) -> None:
    """ImageError if a TIFF has more pages than the image has channels, or pages over the limit."""
    try:
        pages = list(islice(parse_tiff_pages(data.data), channels + 1))
    except (struct.error, OverflowError) as error:
        raise ImageError(path, "damaged, or not an image in a known format") from error
    if len(pages) > channels:
        raise ImageError(path, f"has more than {channels} pages, but the model expects {channels} channels")
    for page in pages:
        _check_pixels(path, page.width * page.height, page.samples * page.sample_bytes * len(pages))


def _reduced_flags(header: ImageHeader, reduce_to: int, channels: int) -> int:
    for divisor, color, gray in _REDUCED:
        if max(header.width, header.height) // divisor >= reduce_to:
            return int(color if channels == 3 else gray)
    return int(cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
