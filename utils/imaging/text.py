"""One line of text as a coverage mask, in whatever script, with fonts that are already on the machine.

OpenCV 5 carries fonts for Latin, Greek, Cyrillic, Chinese, Japanese and Korean. Right-to-left scripts, which it lays
out in the wrong order, and all others go to Pillow with the DejaVu font that matplotlib ships (Arabic, Hebrew,
Armenian, Georgian ...) or with a font of the system. Letters that no font has are spelt out in Latin from their
Unicode names, which reads better than empty boxes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from utils.core.logging import LOGGER
from utils.imaging.rtl import is_right_to_left, visual_order

WEIGHT = 500  # of OpenCV's variable font: between regular and bold, to be read on a colored plate
PROBE_HEIGHT = 32  # pixels at which glyphs are compared with the one for missing letters


@lru_cache(maxsize=2048)
def text_mask(text: str, height: int) -> np.ndarray:
    """Coverage of one line of text.

    Args:
        text: any Unicode; line breaks and control characters become spaces.
        height: font size in pixels; the mask is about 1.3 times as high, more where accents or descenders need it.

    Returns:
        (h, w) uint8, 255 inside the strokes; w is 0 for text without visible letters. Shared: do not write to it.
    """
    text = _one_line(text)
    draw = _painter(text)
    canvas_hw = (3 * height, (len(text) + 2) * 3 * height)
    canvas = draw(text, canvas_hw, (height, 2 * height), height)
    inked_rows, inked_columns = np.flatnonzero(canvas.any(axis=1)), np.flatnonzero(canvas.any(axis=0))
    if not len(inked_rows):
        return np.zeros((round(1.3 * height), 0), np.uint8)
    top, bottom = min(height, inked_rows[0]), max(2 * height + round(0.3 * height), inked_rows[-1] + 1)
    return np.ascontiguousarray(canvas[top:bottom, inked_columns[0] : inked_columns[-1] + 1])


def _one_line(text: str) -> str:
    """Composed form of the text, without line breaks and control characters."""
    kept = (" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    return unicodedata.normalize("NFC", "".join(kept)).strip()


Painter = Callable[[str, tuple[int, int], tuple[int, int], int], np.ndarray]  # text, canvas_hw, baseline start, height


def _painter(text: str) -> Painter:
    """What draws this text best: OpenCV where it has all letters, Pillow with a fitting font otherwise."""
    if _opencv_font() is not None and not is_right_to_left(text) and all(map(_opencv_has, text)):
        return _paint_opencv
    visible = frozenset(char for char in text if not _is_silent(char))
    path, missing = _best_font(visible)
    return lambda *args: _paint_pillow(path, missing, *args)


def _is_silent(char: str) -> bool:
    """Whether a character leaves no ink of its own: spaces, joiners, variation selectors."""
    return char.isspace() or unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f"


# -- OpenCV 5 -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _opencv_font() -> Any:
    """OpenCV's built-in Unicode font, None before OpenCV 5."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _paint_opencv(text: str, canvas_hw: tuple[int, int], start: tuple[int, int], height: int) -> np.ndarray:
    canvas = np.zeros(canvas_hw, np.uint8)
    shown = "".join(char for char in text if char.isspace() or not _is_silent(char))
    cv2.putText(canvas, shown, start, (255,), _opencv_font(), height, WEIGHT)
    return canvas


@lru_cache(maxsize=4096)
def _opencv_has(char: str) -> bool:
    """Whether OpenCV's font has the letter; it draws a question mark for those it lacks."""
    if _opencv_font() is None:
        return False
    if char == "?" or _is_silent(char):
        return True
    probe = ((2 * PROBE_HEIGHT, 3 * PROBE_HEIGHT), (PROBE_HEIGHT, PROBE_HEIGHT + 10), PROBE_HEIGHT)
    return not np.array_equal(_paint_opencv(char, *probe), _paint_opencv("?", *probe))


# -- Pillow with a font file --------------------------------------------------------------------------------------


def _paint_pillow(
    path: str, missing: frozenset[str], text: str, canvas_hw: tuple[int, int], start: tuple[int, int], height: int
) -> np.ndarray:
    shown = spelt_out(text, missing)
    engine = ImageFont.Layout.RAQM if features.check_feature("raqm") else ImageFont.Layout.BASIC
    if engine == ImageFont.Layout.BASIC:  # which neither joins nor orders right-to-left letters
        shown = visual_order(shown)
    canvas_hw = (canvas_hw[0], max(canvas_hw[1], (len(shown) + 2) * 2 * height))
    canvas = Image.new("L", canvas_hw[::-1])
    ImageDraw.Draw(canvas).text(start, shown, fill=255, font=_pillow_font(path, height, engine), anchor="ls")
    return np.asarray(canvas)


@lru_cache(maxsize=64)
def _pillow_font(path: str, height: int, engine: ImageFont.Layout) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, height, layout_engine=engine)


@lru_cache(maxsize=256)
def _best_font(chars: frozenset[str]) -> tuple[str, frozenset[str]]:
    """The font file that lacks fewest of `chars`, and those it lacks; matplotlib's own font wins a tie."""
    # matplotlib is slow to import and its list of fonts to build: only images with rare scripts wait for it
    from matplotlib import font_manager, get_data_path

    files = sorted(
        {entry.fname for entry in font_manager.fontManager.ttflist if "last resort" not in entry.name.lower()}
    )
    own = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    best = (own, _lacking(own, chars))
    for path in files:
        if best[1] and len(lacking := _lacking(path, chars)) < len(best[1]):
            best = (path, lacking)
    if best[1]:
        _warn("".join(sorted(best[1])))
    return best


@lru_cache(maxsize=256)
def _warn(letters: str) -> None:
    """Say once that these letters cannot be drawn."""
    LOGGER.warning(f"No font on this machine has {letters!r}: spelt out in images. Install one (e.g. Noto Sans)")


def _lacking(path: str, chars: frozenset[str]) -> frozenset[str]:
    """Those of `chars` the font file has no glyph for; all of them if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return chars
    return frozenset(char for char in chars if not font.get_char_index(ord(char)))


KINDS = ("LETTER", "SYLLABLE", "CHARACTER", "VOWEL SIGN", "SIGN", "DIGIT")  # words before the sound in Unicode names


def spelt_out(text: str, missing: frozenset[str]) -> str:
    """The text with the `missing` letters in Latin, as their Unicode names give the sound.

    In Indic scripts a consonant stands for consonant + a, and a vowel sign or virama takes that a away.
    """
    spelt = ""
    for char in text:
        if char in missing and _replaces_vowel(char):
            spelt = spelt.removesuffix("a")
        spelt += _sound(char) if char in missing else char
    return spelt


def _replaces_vowel(char: str) -> bool:
    name = unicodedata.name(char, "")
    return unicodedata.category(char)[0] == "M" and ("VOWEL SIGN" in name or "VIRAMA" in name)


def _sound(char: str) -> str:
    """'ka' for DEVANAGARI LETTER KA; the code point in brackets for a character whose name tells no sound."""
    name = unicodedata.name(char, "")
    for kind in KINDS if unicodedata.category(char)[0] in "LMN" else ():
        _, found, sound = name.partition(f" {kind} ")
        if found and "-" not in sound:
            return "" if sound in ("VIRAMA", "NUKTA") else sound.split()[0].lower()
    return f"[{ord(char):04x}]"
