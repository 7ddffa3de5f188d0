"""Read semantic masks from image files."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from utils.imaging.headers import PNG_START
from utils.imaging.read import ImageError, check_header, read_bytes

GRAY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow scales gray of 2 or 4 bits to 0-255 by these factors
PILLOW_ERRORS = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, SyntaxError, TypeError, ValueError, struct.error),
    Image.DecompressionBombError,
)


def read_semantic_mask(path: str) -> np.ndarray:
    """Class values (H, W) uint8 of a gray or palette image; a palette's indices count, not its colors.

    Raises:
        ImageError: the file is unreadable or over a limit, or its pixels are not one byte.
    """
    try:
        mode, values = _decode(path)
    except PILLOW_ERRORS as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ImageError(path, f"cannot read the semantic mask ({reason})") from error
    if values is None:
        raise ImageError(
            path,
            f"a semantic mask needs one byte per pixel (gray or palette), but the mode is {mode}; "
            "save class numbers instead of colors",
        )
    return values


def _decode(path: str) -> tuple[str, np.ndarray | None]:
    """Mode of an image and its values (H, W), None if they are not one byte."""
    data = read_bytes(path)
    check_header(data, path)
    stream = io.BytesIO(data.data)
    is_png = data[: len(PNG_START)].tobytes() == PNG_START
    with PngImageFile(stream) if is_png else Image.open(stream) as image:  # `Image.open` rejects large images
        if image.mode not in ("L", "P", "1"):
            return image.mode, None
        steps = GRAY_STEPS.get(str(image.tile[0][3])) if image.tile else None
        values = np.array(image, np.uint8)
    return image.mode, values if steps is None else values // steps
