"""Text in any script, drawn as a coverage mask with fonts that are already installed.

OpenCV 5 has fonts for Latin, Greek, Cyrillic, Chinese, Japanese and Korean. Pillow draws all other scripts, those that
run from right to left included, with the DejaVu font that matplotlib ships or a system font that has the letters.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from utils.core.logging import LOGGER

WEIGHT = 500  # of OpenCV's variable font: between regular and bold, legible on a colored background
MAX_LETTERS = 200  # more do not fit an image, and the canvas grows with them
PROBE_HEIGHT = 32  # font size in pixels at which glyphs are compared with the one for missing letters


@lru_cache(maxsize=2048)
def text_mask(text: str, height: int) -> np.ndarray:
    """Coverage of one line of text.

    Args:
        text: any Unicode; line breaks and control characters become spaces, and letters after the 200th are left out.
        height: font size in pixels; the mask is about 1.3 times as high, more where accents or descenders need it.

    Returns:
        (h, w) uint8, 255 inside the strokes; w is 0 for text without visible letters. Shared: do not write to it.
    """
    text = _to_one_line(text)
    canvas = _draw_text(text, (3 * height, (len(text) + 2) * 3 * height), (height, 2 * height), height)
    ink_rows, ink_columns = np.flatnonzero(canvas.any(axis=1)), np.flatnonzero(canvas.any(axis=0))
    if not len(ink_rows):
        return np.zeros((round(1.3 * height), 0), np.uint8)
    top, bottom = min(height, ink_rows[0]), max(2 * height + round(0.3 * height), ink_rows[-1] + 1)
    return np.ascontiguousarray(canvas[top:bottom, ink_columns[0] : ink_columns[-1] + 1])


def is_right_to_left(text: str) -> bool:
    """Whether any letter belongs to a right-to-left script."""
    return any(unicodedata.bidirectional(char) in ("R", "AL") for char in text)


def _to_one_line(text: str) -> str:
    """The composed form (NFC) of the text, without line breaks and control characters, and of a bounded length."""
    text = text[:MAX_LETTERS]
    printable = (" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in text)
    return unicodedata.normalize("NFC", "".join(printable)).strip()


def _is_invisible(char: str) -> bool:
    """Whether a character has no ink: spaces, joiners, variation selectors."""
    return char.isspace() or unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f"


def _draw_text(text: str, canvas_hw: tuple[int, int], start_xy: tuple[int, int], height: int) -> np.ndarray:
    """A canvas (H, W) uint8 with the text, whose baseline starts at `start_xy`."""
    # OpenCV lays out right-to-left scripts in the wrong order
    if _opencv_font() is not None and not is_right_to_left(text) and all(map(_opencv_has, text)):
        return _draw_opencv(text, canvas_hw, start_xy, height)
    return _draw_pillow(text, canvas_hw, start_xy, height)


@lru_cache(maxsize=1)
def _opencv_font() -> Any:
    """OpenCV's built-in Unicode font, None before OpenCV 5."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _draw_opencv(text: str, canvas_hw: tuple[int, int], start_xy: tuple[int, int], height: int) -> np.ndarray:
    canvas = np.zeros(canvas_hw, np.uint8)
    text = "".join(char for char in text if char.isspace() or not _is_invisible(char))
    cv2.putText(canvas, text, start_xy, (255,), _opencv_font(), height, WEIGHT)
    return canvas


@lru_cache(maxsize=4096)
def _opencv_has(char: str) -> bool:
    """Whether OpenCV's font has the letter; it draws a question mark for those it lacks."""
    if char == "?" or _is_invisible(char):
        return True
    probe = ((2 * PROBE_HEIGHT, 3 * PROBE_HEIGHT), (PROBE_HEIGHT, PROBE_HEIGHT + 10), PROBE_HEIGHT)
    return not np.array_equal(_draw_opencv(char, *probe), _draw_opencv("?", *probe))


def _draw_pillow(text: str, canvas_hw: tuple[int, int], start_xy: tuple[int, int], height: int) -> np.ndarray:
    path = _find_font(frozenset(char for char in text if not _is_invisible(char)))
    if features.check("raqm"):
        engine = ImageFont.Layout.RAQM
    else:
        engine, text = ImageFont.Layout.BASIC, _to_display_order(text)
    canvas = Image.new("L", canvas_hw[::-1])
    font = ImageFont.truetype(path, height, layout_engine=engine)
    ImageDraw.Draw(canvas).text(start_xy, text, fill=255, font=font, anchor="ls")
    return np.asarray(canvas)


def _to_display_order(text: str) -> str:
    """Right-to-left text in the order of its letters on screen, where the optional python-bidi is installed."""
    if not is_right_to_left(text):
        return text
    try:
        from bidi.algorithm import get_display
    except ImportError:
        _warn("right-to-left names are drawn in reverse: install the FriBiDi library or `pip install python-bidi`")
        return text
    return get_display(text)


@lru_cache(maxsize=256)
def _find_font(chars: frozenset[str]) -> str:
    """The font file that lacks the fewest of `chars`: DejaVu Sans, or a better one of the system."""
    # matplotlib and its font list are slow to load: only images with rare scripts need them
    from matplotlib import font_manager, get_data_path

    best = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    if _missing_letters(best, chars):
        fonts = {font.fname for font in font_manager.fontManager.ttflist if "last resort" not in font.name.lower()}
        best = min([best, *sorted(fonts)], key=lambda path: len(_missing_letters(path, chars)))
    if missing := _missing_letters(best, chars):
        letters = "".join(sorted(missing))
        _warn(f"no font has {letters!r}: drawn as boxes. Install a font that does, for example Noto Sans")
    return best


@lru_cache(maxsize=256)
def _warn(message: str) -> None:
    """Log a warning once."""
    LOGGER.warning(message)


def _missing_letters(path: str, chars: frozenset[str]) -> frozenset[str]:
    """Those of `chars` that the font file has no glyph for; all of them if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return chars
    return frozenset(char for char in chars if not font.get_char_index(ord(char)))
