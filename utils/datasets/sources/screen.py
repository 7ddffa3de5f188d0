"""What a screen shows as a source of frames, by the package mss."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from utils.backends.packages import import_runtime
from utils.core.errors import InputError
from utils.datasets.sources.frames import DEFAULT_FPS, SourceFrame, fit_live

FORM = "screen [N] [left top width height]"


def is_screen(source: str) -> bool:
    """Whether a `--source` means the screen: the word, alone or followed by numbers."""
    return re.fullmatch(r"screen(\s+\S+)*", source.strip(), re.IGNORECASE) is not None


def parse_screen(source: str) -> tuple[int, tuple[int, int, int, int] | None]:
    """Number of the screen and left, top, width, height within it (None: all of it).

    Raises:
        InputError: not in the form `screen [N] [left top width height]`.
    """
    words = source.split()[1:]
    if len(words) not in (0, 1, 4, 5) or not all(word.isdecimal() for word in words):
        raise InputError(f"--source {source}: expected {FORM}, whole numbers of pixels")
    numbers = [int(word) for word in words]
    screen = numbers.pop(0) if len(numbers) in (1, 5) else 0
    if not numbers:
        return screen, None
    left, top, width, height = numbers
    if not width or not height:
        raise InputError(f"--source {source}: width and height must be at least 1; expected {FORM}")
    return screen, (left, top, width, height)


class ScreenSource:
    """Images of the screen, taken when they are asked for, at most 30 a second.

    Args:
        source: `screen [N] [left top width height]`; screen 0 is all screens side by side, 1 the first.

    Raises:
        InputError: mss is missing, there is no screen to be seen, or no such one.
    """

    live = endless = True
    inputs = 1

    def __init__(self, source: str) -> None:
        number, region = parse_screen(source)
        module = import_runtime("mss", needed_for="screen captures")
        self._errors = module.exception.ScreenShotError
        try:
            self._screens: Any = (getattr(module, "MSS", None) or module.mss)()  # called mss before version 10
            monitors = self._screens.monitors
        except self._errors as error:
            raise InputError(f"--source {source}: the screen cannot be seen ({_first_line(error)})") from error
        if number >= len(monitors):
            raise InputError(f"--source {source}: there are screens 1 to {len(monitors) - 1}, and 0 for all of them")
        self.area = _area(monitors[number], region, source)
        self.name = f"screen{number}"
        self.problems: list[str] = []
        self._closed = False

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """One image at a time; its number counts thirtieths of a second since the start."""
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
                self.problems.append(f"{self.name}: no longer seen ({_first_line(error)})")
                return
            frame = fit_live(shot, channels, self.name)
            heading = f"{self.name} (frame {number}) {self.area['width']}x{self.area['height']}"
            yield [SourceFrame(self.name, frame, heading, number, DEFAULT_FPS, live=True)]

    def close(self) -> None:
        """Let go of the screen."""
        if not self._closed:
            self._screens.close()
        self._closed = True


def _area(monitor: dict[str, int], region: tuple[int, int, int, int] | None, source: str) -> dict[str, int]:
    """The part of a screen to be seen, in pixels of the whole desktop."""
    if region is None:
        return {key: monitor[key] for key in ("left", "top", "width", "height")}
    left, top, width, height = region
    if left + width > monitor["width"] or top + height > monitor["height"]:
        size = f"{monitor['width']}x{monitor['height']}"
        raise InputError(f"--source {source}: reaches beyond the screen, which has {size} pixels")
    return {"left": monitor["left"] + left, "top": monitor["top"] + top, "width": width, "height": height}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
