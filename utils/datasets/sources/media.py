"""Image and video files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack
from pathlib import Path

import cv2

from utils.core.errors import to_one_line
from utils.core.limits import describe_excess
from utils.core.logging import LOGGER
from utils.datasets.sources.frames import (
    MEDIA_SUFFIXES,
    VIDEO_SUFFIXES,
    SourceFrame,
    describe_formats,
    is_unicode,
    sanitize_fps,
)
from utils.datasets.sources.watch import WatchedFiles
from utils.imaging.large_image import PACKAGE, open_large_image
from utils.imaging.read import MAX_PIXELS, ImageError, TooLargeError, fit_channels, read_image

COMPLETE_SHARE = 0.9  # containers only estimate the number of frames, so a few missing ones are no problem
MAX_FAILURES = 200  # frames in a row that cannot be read before a damaged video counts as ended


class MediaSource:
    """Frames of image and video files, one per batch; damaged files are logged, counted and skipped.

    Args:
        files: images and videos in reading order; may be a generator.
        vid_stride: sample every Nth frame of a video.
        decode_threads: threads of the video decoder; 0 lets it choose.
        endless: `files` does not end by itself.
        in_parts: read large images in parts, for a predictor that takes them so.
        titles: log names of files that are not known by their path.
        on_close: called by `close`, in reverse order.
    """

    live = False

    def __init__(
        self,
        files: Iterable[str],
        *,
        vid_stride: int = 1,
        decode_threads: int = 0,
        endless: bool = False,
        in_parts: bool = False,
        titles: Mapping[str, str] | None = None,
        on_close: Iterable[Callable[[], object]] = (),
    ) -> None:
        self.files, self.vid_stride, self.decode_threads, self.endless = files, vid_stride, decode_threads, endless
        self.in_parts = in_parts
        self.total = len(files) if isinstance(files, Sized) else None
        self.titles = titles or {}
        self.problems: list[str] = []
        self.num_inputs = 0
        self._closing = ExitStack()
        for call in on_close:
            self._closing.callback(call)

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """Each image and sampled video frame as a batch of one."""
        for path in self.files:
            self.num_inputs += 1
            title = self.titles.get(path, to_one_line(path))
            position = f"{self.num_inputs}/{self.total}" if self.total else str(self.num_inputs)
            try:
                if Path(path).suffix.lower() in VIDEO_SUFFIXES:
                    for frame in self._read_video(path, position, title, channels):
                        yield [frame]
                else:
                    yield [self._read_image(path, position, title, channels)]
            except ImageError as error:
                self._add_problem(f"{title}: {error.reason}", "skipped ")

    def ignore_folder(self, folder: Path) -> None:
        """Ignore new files below a folder, such as the run folder, when watching for files."""
        if isinstance(self.files, WatchedFiles):
            self.files.ignored_folder = folder

    def report_problem(self, problem: str) -> None:
        """Log a problem with an input that its reader finds, and count it."""
        self._add_problem(problem, "skipped ")

    def close(self) -> None:
        """Stop waiting for further files and remove temporary ones."""
        self._closing.close()

    def _add_problem(self, problem: str, outcome: str) -> None:
        """Log a problem and record it, so that the exit status becomes 1."""
        LOGGER.warning(f"WARNING: {outcome}{problem}")
        self.problems.append(problem)

    def _read_image(self, path: str, position: str, title: str, channels: int) -> SourceFrame:
        if Path(path).suffix.lower() not in MEDIA_SUFFIXES:
            raise ImageError(path, f"neither an image nor a video; {describe_formats()}")

        def warn(reason: str) -> None:
            self._add_problem(f"{title}: {reason}", "")

        heading = f"image {position} {title}"
        if self.in_parts and (large := open_large_image(path, channels)):
            return SourceFrame(path, large.overview, heading, large=large)
        try:
            return SourceFrame(path, read_image(path, channels=channels, warn=warn), heading)
        except TooLargeError as error:
            if self.in_parts:
                raise ImageError(path, f"{error.reason}; or pip install '{PACKAGE}', to read it in parts") from error
            raise

    def _read_video(self, path: str, position: str, title: str, channels: int) -> Iterator[SourceFrame]:
        """Frames N, 2N, ... of N = `vid_stride`, numbered from 1; ImageError for none, a problem if some are lost."""
        capture = open_video(path, threads=self.decode_threads)
        try:
            total = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            fps = sanitize_fps(capture.get(cv2.CAP_PROP_FPS)) / self.vid_stride
            number = gaps = 0
            while (failures := _grab(capture, MAX_FAILURES if number < total else 0)) is not None:
                number += 1
                gaps += failures > 0
                if number % self.vid_stride:
                    continue
                decoded, frame = capture.retrieve()
                if decoded:
                    sampled = number // self.vid_stride
                    heading = f"video {position} ({sampled}/{total // self.vid_stride or '?'}) {title}"
                    frame = fit_channels(frame, channels, path)
                    yield SourceFrame(path, frame, heading, sampled, fps, capture=capture)
            if not capture.isOpened():  # released by the program that reads the frames, to skip the rest
                return
        finally:
            capture.release()
        if not number:
            raise ImageError(path, "damaged, no frame can be read")
        if number < self.vid_stride:
            self._add_problem(f"{title}: {number} frames, fewer than --vid-stride {self.vid_stride}", "")
        if gaps:
            self._add_problem(f"{title}: damaged, {number} of {total} frames can be read", "")
        elif number < total * COMPLETE_SHARE:
            self._add_problem(f"{title}: truncated after frame {number} of {total}", "")


def open_video(path: str, *, threads: int = 0) -> cv2.VideoCapture:
    """Open a video file with a number of decoder threads, 0 for the decoder's choice; ImageError if it is unusable."""
    _check_video_file(path)
    capture = cv2.VideoCapture(path, cv2.CAP_ANY, [cv2.CAP_PROP_N_THREADS, threads])
    reason = None if capture.isOpened() else "damaged, or not a video in a supported format"
    pixels = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    reason = reason or describe_excess("pixels", pixels, MAX_PIXELS)
    if reason:
        capture.release()
        raise ImageError(path, reason)
    return capture


def _check_video_file(path: str) -> None:
    """ImageError if OpenCV must not open this path as a video."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - pathlib hides the reason
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise ImageError(path, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(mode):
        raise ImageError(path, "not a regular file")
    if not is_unicode(path):
        raise ImageError(path, "OpenCV cannot open a video whose name is not UTF-8; rename it")


def _grab(capture: cv2.VideoCapture, patience: int) -> int | None:
    """Advance to the next readable frame; the number of unreadable ones before it, None beyond `patience`."""
    return next((failures for failures in range(patience + 1) if capture.grab()), None)
