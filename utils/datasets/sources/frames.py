"""One image to look at, and what a source of such images offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.core.errors import InputError
from utils.imaging.read import IMAGE_SUFFIXES, ImageError, fit_channels

VIDEO_SUFFIXES = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv"})
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
DEFAULT_FPS = 30.0
MAX_FPS = 240.0  # above it a number is a clock rate, not a frame rate


@dataclass(frozen=True)
class SourceFrame:
    """One image to look at, and where it comes from.

    Attributes:
        path: the image or video file; the name of a live source.
        frame: (H, W, C) uint8; C = 3 is BGR.
        heading: how the log names it, such as `video 1/2 (7/90) clip.mp4`.
        number: position in the video or stream, from 1; None for an image.
        fps: frames per second that play the taken frames at the video's speed; 0 for an image.
        step: how far `number` goes on from one taken frame to the next where none is missed.
        live: from a stream, where frames that came too fast are missed.
    """

    path: str
    frame: np.ndarray
    heading: str
    number: int | None = None
    fps: float = 0.0
    step: int = 1
    live: bool = False


class Source(Protocol):
    """Where the images of a run come from.

    Attributes:
        live: frames come whether or not they are taken; they are read in the calling thread, the newest first.
        endless: it goes on until the user ends it.
        inputs: files or streams begun so far.
        problems: one line for each of them that could not be used (fully).
    """

    live: bool
    endless: bool

    @property
    def inputs(self) -> int: ...

    @property
    def problems(self) -> list[str]: ...

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """Frames to be looked at together, of `channels` channels, of any sizes."""
        ...

    def close(self) -> None:
        """End its threads, wake a reader that waits, and remove temporary files; may be called again."""
        ...


def is_video(path: str) -> bool:
    """Whether the suffix is one of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def frame_rate(value: float) -> float:
    """Frames per second that a container or camera claims, or 30 where it does not know."""
    return value if 0 < value <= MAX_FPS else DEFAULT_FPS


def fit_live(frame: np.ndarray, channels: int, name: str) -> np.ndarray:
    """A frame of a live source with the channels of the network; InputError where that cannot be."""
    try:
        return fit_channels(frame, channels, name)
    except ImageError as error:
        raise InputError(str(error)) from error


def known_formats() -> str:
    """The suffixes of images and videos, for messages."""
    images, videos = (" ".join(sorted(s[1:] for s in kinds)) for kinds in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
    return f"images: {images}; videos: {videos}"
