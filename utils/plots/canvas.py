"""A matplotlib canvas with text in any script."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

from utils.imaging.text import is_right_to_left, text_mask

DESCENT = 0.3  # part of a text mask below the baseline, as a fraction of the font size


class Canvas(FigureCanvasAgg):
    """Canvas that draws with `_Renderer`."""

    def get_renderer(self) -> RendererAgg:
        if not isinstance(getattr(self, "renderer", None), _Renderer):
            width, height = self.get_width_height(physical=True)
            self.renderer = _Renderer(width, height, self.figure.dpi)
        return self.renderer


class _Renderer(RendererAgg):
    """Agg renderer that draws text with `utils.imaging.text` if matplotlib's font cannot."""

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> tuple[float, float, float]:
        if ismath or _matplotlib_can_draw(s):
            return super().get_text_width_height_descent(s, prop, ismath)
        height, width = self._mask(s, prop).shape
        return float(width), float(height), DESCENT * self._pixels(prop)

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: FontProperties, angle: float, ismath: Any = False,
        mtext: Any = None,
    ) -> None:  # fmt: skip
        if ismath or _matplotlib_can_draw(s):
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        quarter_turns = round(angle / 90) % 4
        mask = np.rot90(self._mask(s, prop), quarter_turns)
        rgba = np.empty((*mask.shape, 4), np.uint8)
        rgba[..., :3] = np.rint(255 * np.array(gc.get_rgb()[:3]))
        rgba[..., 3] = mask
        below = round(DESCENT * self._pixels(prop))
        left, bottom = {0: (x, y + below), 1: (x + below - mask.shape[1], y)}.get(quarter_turns, (x, y))
        self.draw_image(gc, round(left), round(self.height - bottom), rgba[::-1])

    def _pixels(self, prop: FontProperties) -> int:
        return round(self.points_to_pixels(prop.get_size_in_points()))

    def _mask(self, text: str, prop: FontProperties) -> np.ndarray:
        return text_mask(text, self._pixels(prop))


@lru_cache(maxsize=1024)
def _matplotlib_can_draw(text: str) -> bool:
    """Whether matplotlib's default font has all letters and none is right-to-left."""
    if text.isascii():
        return True
    font = FT2Font(findfont(FontProperties(family="DejaVu Sans")))
    return not is_right_to_left(text) and all(font.get_char_index(ord(char)) for char in text)
