"""Frames and the interface of their sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.imaging.large_image import LargeImage
from utils.imaging.read import IMAGE_SUFFIXES, ImageError, fit_channels

VIDEO_SUFFIXES = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv"})
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
DEFAULT_FPS = 30.0
MAX_FPS = 240.0  # a higher number is a clock rate, not a frame rate


@dataclass(frozen=True)
class SourceFrame:
    """One image or video frame and its origin.

    Attributes:
        path: image or video file; for a live source its name.
        frame: (H, W, C) uint8; C = 3 is BGR. Of a large image, the overview.
        heading: start of its log line, such as `video 1/2 (7/90) clip.mp4`.
        number: position among the sampled frames of a video, or in the stream, from 1; None for an image.
        fps: frame rate at which the sampled frames play at the original speed; 0 for an image.
        step: increase of `number` from one sampled frame of a stream to the next if none is dropped.
        live: from a live source, which drops frames that arrive too fast.
        capture: the video file that is being read, or None.
        large: the image if it is read in parts, or None.
    """

    path: str
    frame: np.ndarray
    heading: str
    number: int | None = None
    fps: float = 0.0
    step: int = 1
    live: bool = False
    capture: cv2.VideoCapture | None = None
    large: LargeImage | None = None

    @property
    def pixels(self) -> np.ndarray | LargeImage:
        """What the predictor reads."""
        return self.frame if self.large is None else self.large

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def crop(self, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Pixels (h, w, C) of a part of the image; a view if it is in memory."""
        return self.frame[y1:y2, x1:x2] if self.large is None else self.large.read(x1, y1, x2, y2)


class Source(Protocol):
    """A source of images and video frames.

    Attributes:
        live: frames arrive on their own schedule; read the source in the calling thread and get the newest ones.
        endless: runs until the user stops it.
        num_inputs: files or streams opened so far.
        problems: one line for each input that could not be read completely.
    """

    live: bool
    endless: bool

    @property
    def num_inputs(self) -> int: ...

    @property
    def problems(self) -> list[str]: ...

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """Frames of `channels` channels to process together; their sizes may differ."""
        ...

    def close(self) -> None:
        """Stop the threads, wake a waiting reader and remove temporary files; may be called twice."""
        ...


def is_unicode(name: object) -> bool:
    """Whether a file name is valid Unicode. On Linux it may have bytes that are not, and OpenCV crashes on them."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def sanitize_fps(value: float) -> float:
    """The frame rate that a container or camera reports, or 30 if the value is implausible."""
    return value if 0 < value <= MAX_FPS else DEFAULT_FPS


def fit_live_channels(frame: np.ndarray, channels: int, name: str) -> np.ndarray:
    """Convert a frame of a live source to the channels of the network; InputError if impossible."""
    try:
        return fit_channels(frame, channels, name)
    except ImageError as error:
        raise InputError(str(error)) from error


def describe_formats() -> str:
    """The supported suffixes of images and videos, for messages."""
    images, videos = (" ".join(sorted(s[1:] for s in kinds)) for kinds in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
    return f"images: {images}; videos: {videos}"
