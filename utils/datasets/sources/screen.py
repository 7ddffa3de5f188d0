"""Screen capture with the package mss."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.packages import import_runtime
from utils.datasets.sources.frames import DEFAULT_FPS, SourceFrame, fit_live_channels

SYNTAX = "screen [N] [left top width height]"
MAX_DIGITS = 9


def is_screen(source: str) -> bool:
    """Whether a `--source` value means the screen: the word `screen`, alone or followed by numbers."""
    return re.fullmatch(r"screen(\s+\S+)*", source.strip(), re.IGNORECASE) is not None


def parse_screen(source: str) -> tuple[int, tuple[int, int, int, int] | None]:
    """Screen number, and the region as left, top, width, height within it (None: the whole screen).

    Raises:
        InputError: not in the form `screen [N] [left top width height]`.
    """
    words = source.split()[1:]
    if len(words) not in (0, 1, 4, 5) or not all(word.isdecimal() and len(word) <= MAX_DIGITS for word in words):
        raise InputError(f"--source {source}: expected {SYNTAX}, integers in pixels")
    numbers = [int(word) for word in words]
    screen = numbers.pop(0) if len(numbers) in (1, 5) else 0
    if not numbers:
        return screen, None
    left, top, width, height = numbers
    if not width or not height:
        raise InputError(f"--source {source}: width and height must be at least 1; expected {SYNTAX}")
    return screen, (left, top, width, height)


class ScreenSource:
    """Screen captures, taken on demand at up to 30 frames per second.

    Args:
        source: `screen [N] [left top width height]`; screen 0 is all screens side by side, 1 the first.

    Raises:
        InputError: mss is missing, or the screen does not exist or cannot be captured.
    """

    live = endless = True
    num_inputs = 1

    def __init__(self, source: str) -> None:
        number, region = parse_screen(source)
        module = import_runtime("mss", needed_for="screen captures")
        self._errors = module.exception.ScreenShotError
        try:
            self._screens: Any = (getattr(module, "MSS", None) or module.mss)()  # `mss` before version 10
            monitors = self._screens.monitors
        except self._errors as error:
            raise InputError(f"--source {source}: the screen cannot be captured ({_first_line(error)})") from error
        if number >= len(monitors):
            raise InputError(f"--source {source}: choose a screen from 1 to {len(monitors) - 1}, or 0 for all of them")
        self.area = _locate_region(monitors[number], region, source)
        self.name = f"screen{number}"
        self.problems: list[str] = []
        self._closed = False

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """One capture per batch; its number counts thirtieths of a second since the start."""
        start, number = time.monotonic(), 0
        while not self._closed:
            due = int((time.monotonic() - start) * DEFAULT_FPS) + 1
            if due == number:
                time.sleep(start + number / DEFAULT_FPS - time.monotonic() + 1e-4)
                continue
            number = due
            try:
                shot = np.asarray(self._screens.grab(self.area))  # (H, W, 4) BGRA
            except self._errors as error:
                self.problems.append(f"{self.name}: capture failed ({_first_line(error)})")
                return
            frame = fit_live_channels(shot, channels, self.name)
            heading = f"{self.name} (frame {number}) {self.area['width']}x{self.area['height']}"
            yield [SourceFrame(self.name, frame, heading, number, DEFAULT_FPS, live=True)]

    def close(self) -> None:
        """Release the screen."""
        if not self._closed:
            self._screens.close()
        self._closed = True


def _locate_region(monitor: dict[str, int], region: tuple[int, int, int, int] | None, source: str) -> dict[str, int]:
    """The captured region in pixels of the whole desktop."""
    left, top, width, height = region or (0, 0, monitor["width"], monitor["height"])
    if left + width > monitor["width"] or top + height > monitor["height"]:
        size = f"{monitor['width']}x{monitor['height']}"
        raise InputError(f"--source {source}: the region exceeds the screen of {size} pixels")
    return {"left": monitor["left"] + left, "top": monitor["top"] + top, "width": width, "height": height}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
