"""Matplotlib figures without global state; matplotlib, which takes a quarter of a second, is imported for the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from utils.core.files import add_path_to_errors
from utils.imaging.draw import class_color_bgr
from utils.imaging.read import imwrite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JPEG_QUALITY = 92


def create_figure(width: float, height: float, *, dpi: int = 150, constrained: bool = True) -> Figure:
    """Create a figure of this size in inches; `constrained` layout avoids overlaps but is slower."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained" if constrained else None)


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure as .png or .jpg; creates the folder."""
    from utils.plots.canvas import Canvas

    canvas = Canvas(figure)
    canvas.draw()
    write_image(file, cv2.cvtColor(np.asarray(canvas.buffer_rgba()), cv2.COLOR_RGBA2BGR))


def write_image(file: Path, frame_bgr: np.ndarray) -> None:
    """Write an image as .png or .jpg; creates the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with add_path_to_errors(file):
        imwrite(file, frame_bgr, quality=None if file.suffix == ".png" else JPEG_QUALITY)


def class_color(i: int) -> tuple[float, float, float]:
    """Color of class `i` for matplotlib (RGB, 0-1)."""
    blue, green, red = class_color_bgr(i)
    return red / 255, green / 255, blue / 255


def disable_mathtext(texts: Any) -> None:
    """Draw text literally: a class may be called `$x$`."""
    for text in texts:
        text.set_parse_math(False)
