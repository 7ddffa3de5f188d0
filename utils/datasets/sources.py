"""What detect.py reads: pictures and videos named one by one, by folder, by glob or in a list file."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.datasets.image_io import IMAGE_SUFFIXES, ImageError, fit_channels, read_image
from utils.errors import InputError
from utils.logging import LOGGER

VIDEO_SUFFIXES = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv"})
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
DEFAULT_FPS = 30.0
COMPLETE_SHARE = 0.9  # containers give the number of frames as an estimate, so a few missing ones mean nothing
_LIVE_SOURCES = (
    (re.compile(r"\d+"), "webcams"),
    (re.compile(r"screen(\s+\d+)*"), "screen capture"),
    (re.compile(r"(www\.)?(youtube\.com|youtu\.be)/.*"), "YouTube videos"),
    (re.compile(r"[a-z][a-z0-9+.-]*://.*"), "streams and URLs"),
    (re.compile(r".*\.streams"), "stream lists"),
    (re.compile(r"-"), "lists on standard input"),
)


@dataclass(frozen=True)
class SourceFrame:
    """One picture to look at, and where it comes from.

    Attributes:
        path: the picture or video file.
        frame: (H, W, C) uint8; C = 3 is BGR.
        heading: how the log names it, such as `video 1/2 (7/90) clip.mp4`.
        number: position in the video, from 1; None for a picture.
        fps: frames per second that play the taken frames at the video's speed; 0 for a picture.
    """

    path: str
    frame: np.ndarray
    heading: str
    number: int | None = None
    fps: float = 0.0


class MediaSource:
    """Iterates the frames of picture and video files; a damaged file is named, counted and passed over.

    Args:
        files: pictures and videos, in the order to be read.
        vid_stride: take every Nth frame of a video.
        channels: channels of the network input.

    Attributes:
        problems: one line for each file that could not be used (fully), filled while iterating.
    """

    def __init__(self, files: list[str], *, vid_stride: int = 1, channels: int = 3) -> None:
        self.files, self.vid_stride, self.channels = files, vid_stride, channels
        self.problems: list[str] = []

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[SourceFrame]:
        for position, path in enumerate(self.files, start=1):
            place = f"{position}/{len(self.files)}"
            try:
                if is_video(path):
                    yield from self._video_frames(path, place)
                else:
                    yield SourceFrame(path, read_image(path, channels=self.channels), f"image {place} {path}")
            except ImageError as error:
                LOGGER.warning(f"WARNING: passed over {error}")
                self.problems.append(str(error))

    def _video_frames(self, path: str, place: str) -> Iterator[SourceFrame]:
        """Every `vid_stride`-th frame from the first; ImageError where the video cannot be read or breaks off."""
        if not Path(path).is_file():
            raise ImageError(path, "No such file")
        capture = cv2.VideoCapture(path)
        try:
            if not capture.isOpened():
                raise ImageError(path, "damaged, or not a video in a known format")
            total = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            fps = capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS
            number = 0
            while capture.grab():
                number += 1
                if (number - 1) % self.vid_stride:
                    continue
                decoded, frame = capture.retrieve()
                if decoded:
                    heading = f"video {place} ({number}/{total or '?'}) {path}"
                    frame = fit_channels(frame, self.channels, path)
                    yield SourceFrame(path, frame, heading, number, fps / self.vid_stride)
        finally:
            capture.release()
        if number < total * COMPLETE_SHARE or not number:
            raise ImageError(path, f"breaks off after frame {number} of {total}")


def open_source(source: str, *, vid_stride: int = 1, channels: int = 3) -> MediaSource:
    """The source that a `--source` value names.

    Raises:
        InputError: nothing there, no picture or video among it, or a kind of source that is not offered yet.
    """
    return MediaSource(find_media(source), vid_stride=vid_stride, channels=channels)


def find_media(source: str) -> list[str]:
    """Pictures and videos of a file, folder (not its subfolders), glob or list file; sorted within folder and glob."""
    source = source.strip()
    if not source:
        raise InputError("--source is empty; give a file, a folder, a glob or a .txt list of files")
    path = Path(source)
    if not path.exists():
        _refuse_live(source)
    if path.is_dir():
        return _media_among((str(p) for p in path.iterdir() if p.is_file()), f"{source}: the folder")
    if path.is_file():
        if path.suffix.lower() == ".txt":
            return _read_list(path)
        if path.suffix.lower() not in MEDIA_SUFFIXES:
            raise InputError(f"{source}: {path.suffix or 'no suffix'} is no format known here; {_known_formats()}")
        return [source]
    if glob.has_magic(source):
        matches = glob.glob(source, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
        return _media_among((p for p in matches if Path(p).is_file()), f"{source}: the glob")
    raise InputError(f"--source {source}: there is no such file or folder")


def is_video(path: str) -> bool:
    """Whether the suffix is one of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _media_among(paths: Iterator[str], place: str) -> list[str]:
    found = sorted(p for p in paths if Path(p).suffix.lower() in MEDIA_SUFFIXES)
    if not found:
        raise InputError(f"{place} has no pictures or videos; {_known_formats()}")
    return found


def _read_list(listing: Path) -> list[str]:
    """Paths of a list file, one a line, relative to the list's folder or else to the working directory.

    Empty lines and lines that start with `#` are left out; a file that is missing shows up when it is to be read.
    """
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{listing}: cannot be read as a list of files: {error}") from error
    files = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        beside = listing.parent / entry
        path = beside if beside.exists() else Path(entry)
        if not path.exists():
            _refuse_live(entry, f"{listing}:{number}")
        if path.suffix.lower() not in MEDIA_SUFFIXES:
            raise InputError(f"{listing}:{number}: {entry}: neither a picture nor a video; {_known_formats()}")
        files.append(str(path))
    if not files:
        raise InputError(f"{listing}: names no pictures or videos; write one path a line")
    return files


def _refuse_live(source: str, place: str = "--source") -> None:
    """InputError for sources that come later."""
    for pattern, kind in _LIVE_SOURCES:
        if pattern.fullmatch(source.lower()):
            raise InputError(
                f"{place}: {source}: {kind} cannot be read yet; give a file, a folder, a glob or a .txt list of files"
            )


def _known_formats() -> str:
    pictures, videos = (" ".join(sorted(s[1:] for s in kinds)) for kinds in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
    return f"pictures: {pictures}; videos: {videos}"
