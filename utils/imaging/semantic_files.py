"""Class maps as pictures on disk: one byte a pixel, gray or with a palette whose colours do not matter."""

from __future__ import annotations

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.imaging.read import ImageError

FEW_BITS = {"L;2": 85, "L;4": 17}  # gray with 2 or 4 bits a pixel is spread over 0-255 on reading, in these steps


def read_class_map(path: str) -> np.ndarray:
    """(H, W) uint8 value of each pixel, the palette's numbers where there is one.

    Raises:
        ImageError: unreadable, or not of one byte a pixel.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "1"):
                raise ImageError(
                    path,
                    f"a class map has one byte a pixel (gray or palette), this is {picture.mode}; write the class "
                    "numbers, not their colours",
                )
            steps = FEW_BITS.get(str(picture.tile[0][3])) if picture.tile else None
            values = np.array(picture, np.uint8)
    except UnidentifiedImageError as error:
        raise ImageError(path, "class map cannot be read (damaged, or not a picture in a known format)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(path, f"class map cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if steps is not None:
        values //= steps
    return values
