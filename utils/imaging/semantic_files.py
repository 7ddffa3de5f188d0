"""Semantic masks as images on disk: one byte a pixel, gray or with a palette whose colors do not matter."""

from __future__ import annotations

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.imaging.read import ImageError

FEW_BITS = {"L;2": 85, "L;4": 17}  # gray with 2 or 4 bits a pixel is spread over 0-255 on reading, in these steps


def read_semantic_mask(path: str) -> np.ndarray:
    """(H, W) uint8 value of each pixel, the palette's numbers where there is one.

    Raises:
        ImageError: unreadable, or not of one byte a pixel.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise ImageError(
                    path,
                    f"a semantic mask has one byte a pixel (gray or palette), this is {image.mode}; write the class "
                    "numbers, not their colors",
                )
            steps = FEW_BITS.get(str(image.tile[0][3])) if image.tile else None
            values = np.array(image, np.uint8)
    except UnidentifiedImageError as error:
        raise ImageError(path, "semantic mask cannot be read (damaged, or not an image in a known format)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(path, f"semantic mask cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if steps is not None:
        values //= steps
    return values
