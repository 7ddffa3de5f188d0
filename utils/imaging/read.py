"""Read and write image files; images are always uint8, upright and of the requested number of channels."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from utils.core.errors import InputError, to_one_line

Warn = Callable[[str], object]
IMAGE_SUFFIXES = frozenset({".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".npy", ".pfm", ".png", ".tif", ".tiff", ".webp"})
MAX_MISSING = 0.5  # share of a truncated image that may be missing
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION_TAG = 0x0112
FLOAT_STARTS = (b"PF", b"Pf", b"II*\0", b"MM\0*")  # PFM and TIFF: pixels may be floats
_REDUCED = (  # divisor, color flag, gray flag
    (8, cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)


class ImageError(ValueError):
    """The image at `path` cannot be used, for this `reason`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(to_one_line(f"{path}: {reason}"))
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # for exceptions from worker processes


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
    if str(path).lower().endswith(".npy"):
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
    if channels not in (1, 3):
        return fit_channels(_decode_many_channels(data, path), channels, path)
    flags = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    if reduce_to is not None and is_jpeg(data):
        flags = _reduced_flags(data, reduce_to, channels)
    frame, warning = decode(data, flags, path, max_missing=MAX_MISSING + 0.05)  # `check_image` measures coarsely
    if warning and warn is not None:
        warn(warning)
    return frame if frame.ndim == channels == 3 else fit_channels(frame, channels, path)


def read_bytes(path: str | Path) -> np.ndarray:
    """Read a non-empty file as (bytes,) uint8. Takes any file name, unlike `cv2.imread` on Windows."""
    try:
        data = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:  # ValueError: the name has a null byte
        raise ImageError(path, getattr(error, "strerror", None) or f"cannot be read ({error})") from error
    if not data.size:
        raise ImageError(path, "empty file (0 bytes)")
    return data


def decode(
    data: np.ndarray, flags: int, path: str | Path, *, max_missing: float = MAX_MISSING
) -> tuple[np.ndarray, str | None]:
    """Decode an image to uint8; a truncated JPEG as far as its data go, with a warning (else None).

    Raises:
        ImageError: not an image, or a share of more than `max_missing` is missing.
    """
    frame = _imdecode(data, flags)
    if frame is not None:
        return frame, None
    frame = _imdecode(_with_end_marker(data), flags) if is_jpeg(data) else None
    if frame is None:
        raise ImageError(path, "damaged, or not an image in a known format")
    missing = _blank_fraction(frame)
    if missing > max_missing:
        raise ImageError(path, f"truncated, about {missing:.0%} of the image is missing")
    return frame, f"truncated, about {missing:.0%} of the image is missing and shown gray; used"


def check_image(path: str | Path) -> tuple[tuple[int, int], str | None]:
    """Decode an image (a JPEG at 1/8 of its size) to verify it; return its upright size_hw and a warning or None.

    Raises:
        ImageError: the image cannot be used, or more than half of it is missing.
    """
    if str(path).lower().endswith(".npy"):
        return read_image_size_hw(path), None
    data = read_bytes(path)
    size_hw = parse_header_size_hw(io.BytesIO(data.data)) if is_jpeg(data) else None
    flags = cv2.IMREAD_COLOR if size_hw is None else cv2.IMREAD_REDUCED_GRAYSCALE_8
    frame, warning = decode(data, flags, path)
    return size_hw or frame.shape[:2], warning


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Convert values to 0-255: upper byte of 16 bits, floats times 255 if none exceeds 1, others clipped."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    values = np.nan_to_num(array.astype(np.float32))
    if np.issubdtype(array.dtype, np.floating) and values.size and values.max() <= 1:
        values = values * 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


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
    """Height and width of an image as `read_image` returns it; reads only the header of a JPEG or PNG.

    Raises:
        ImageError: as `read_image`.
    """
    try:
        with open(path, "rb") as stream:
            size_hw = parse_header_size_hw(stream)
    except OSError as error:
        raise ImageError(path, error.strerror or "cannot be read") from error
    if size_hw is not None:
        return size_hw
    if str(path).lower().endswith(".npy"):
        height, width = _read_npy(path).shape[:2]
        return int(height), int(width)
    height, width = read_image(path).shape[:2]
    return int(height), int(width)


def parse_header_size_hw(stream: BinaryIO) -> tuple[int, int] | None:
    """Upright height and width of a JPEG, or of a PNG without EXIF tag; None if the image must be decoded."""
    start = stream.read(len(PNG_START))
    stream.seek(0)
    try:  # the classes, as `Image.open` rejects large images
        if start == PNG_START:
            png = PngImageFile(stream)
            return None if "exif" in png.info else (png.height, png.width)
        if start.startswith(JPEG_START):
            jpeg, exif = JpegImageFile(stream), Image.Exif()
            exif.load(jpeg.info.get("exif", b""))
            is_rotated = exif.get(ORIENTATION_TAG) in (5, 6, 7, 8)
            return (jpeg.width, jpeg.height) if is_rotated else (jpeg.height, jpeg.width)
    except (OSError, SyntaxError, ValueError, struct.error):
        pass
    return None


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


def _imdecode(data: np.ndarray, flags: int) -> np.ndarray | None:
    if data[:4].tobytes().startswith(FLOAT_STARTS):
        flags |= cv2.IMREAD_ANYDEPTH  # otherwise OpenCV casts 0.7 to 0
    try:
        frame = cv2.imdecode(data, flags)
    except cv2.error:
        return None
    return frame if frame is None or frame.dtype == np.uint8 else to_uint8(frame)


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
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(path, f"not a readable array file ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3):
        raise ImageError(path, "not an array of shape (height, width) or (height, width, channels)")
    return to_uint8(array)


def _decode_many_channels(data: np.ndarray, path: str | Path) -> np.ndarray:
    """All pages of a file, stacked along the channels."""
    try:
        decoded, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded, pages = False, ()
    if not decoded or not pages:
        raise ImageError(path, "damaged, or not an image in a known format")
    if len({page.shape[:2] for page in pages}) > 1:
        raise ImageError(path, f"its {len(pages)} pages differ in size")
    return to_uint8(pages[0] if len(pages) == 1 else np.dstack(pages))


def _reduced_flags(data: np.ndarray, reduce_to: int, channels: int) -> int:
    size_hw = parse_header_size_hw(io.BytesIO(data[: 1 << 17].data))
    for divisor, color, gray in _REDUCED:
        if size_hw is not None and max(size_hw) // divisor >= reduce_to:
            return int(color if channels == 3 else gray)
    return int(cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
