"""Read semantic masks from image files."""

from __future__ import annotations

import numpy as np
from PIL import Image

from utils.imaging.read import ImageError

GRAY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow scales gray of 2 or 4 bits to 0-255 by these factors


def read_semantic_mask(path: str) -> np.ndarray:
    """Class values (H, W) uint8 of a gray or palette image; a palette's indices count, not its colors.

    Raises:
        ImageError: the file is unreadable, or its pixels are not one byte.
    """
    try:
        with Image.open(path) as image:
            steps = GRAY_STEPS.get(str(image.tile[0][3])) if image.tile else None
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(path, f"cannot read the semantic mask ({reason})") from error
    if image.mode not in ("L", "P", "1"):
        raise ImageError(
            path,
            f"a semantic mask needs one byte per pixel (gray or palette), but the mode is {image.mode}; "
            "save class numbers instead of colors",
        )
    values = np.array(image, np.uint8)
    return values if steps is None else values // steps
