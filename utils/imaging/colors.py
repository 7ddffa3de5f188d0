"""Class colors, shared by boxes, masks and semantic masks."""

from __future__ import annotations

import colorsys
from functools import lru_cache

GOLDEN_RATIO = 0.618033988749895  # fraction of the color wheel: keeps the hues of neighboring classes far apart
SHADES = ((0.85, 0.95), (0.95, 0.70), (0.50, 1.00))  # saturation and value of successive rounds


@lru_cache(maxsize=4096)
def class_color(i: int) -> tuple[int, int, int]:
    """RGB color of class `i`, 0-255: saturated, distinct from its neighbors, the same in every run."""
    saturation, value = SHADES[i // 3 % len(SHADES)]
    red, green, blue = (round(255 * x) for x in colorsys.hsv_to_rgb(i * GOLDEN_RATIO % 1.0, saturation, value))
    return red, green, blue
