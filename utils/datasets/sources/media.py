"""The frames of image and video files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack
from pathlib import Path

import cv2

from utils.core.logging import LOGGER
from utils.datasets.sources.frames import MEDIA_SUFFIXES, SourceFrame, frame_rate, is_video, known_formats
from utils.datasets.sources.watch import WatchedFiles
from utils.imaging.read import ImageError, fit_channels, read_image

COMPLETE_SHARE = 0.9  # containers give the number of frames as an estimate, so a few missing ones mean nothing
MOST_FAILURES = 200  # in a row, of a video that may go on behind a damaged place


class MediaSource:
    """The frames of image and video files, one a batch; a damaged file is named, counted and passed over.

    Args:
        files: images and videos, in the order to be read; may come one by one.
        vid_stride: take every Nth frame of a video.
        decode_threads: of the video decoder; 0 leaves it the choice.
        endless: `files` never ends by itself.
        titles: how the log names a file that is not known by its path.
        on_close: called by `close`, last one first.
    """

    live = False

    def __init__(
        self,
        files: Iterable[str],
        *,
        vid_stride: int = 1,
        decode_threads: int = 0,
        endless: bool = False,
        titles: Mapping[str, str] | None = None,
        on_close: Iterable[Callable[[], object]] = (),
    ) -> None:
        self.files, self.vid_stride, self.decode_threads, self.endless = files, vid_stride, decode_threads, endless
        self.total = len(files) if isinstance(files, Sized) else None
        self.titles = titles or {}
        self.problems: list[str] = []
        self.inputs = 0
        self._closing = ExitStack()
        for call in on_close:
            self._closing.callback(call)

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """Each image and taken video frame by itself."""
        for path in self.files:
            self.inputs += 1
            title = self.titles.get(path, path)
            place = f"{self.inputs}/{self.total}" if self.total else str(self.inputs)
            try:
                if is_video(path):
                    for frame in self._video_frames(path, place, title, channels):
                        yield [frame]
                else:
                    yield [self._image(path, place, title, channels)]
            except ImageError as error:
                self._tell(f"{title}: {error.reason}", "passed over ")

    def leave_out(self, folder: Path) -> None:
        """Watch for no files below a folder, such as the one that the run writes to."""
        if isinstance(self.files, WatchedFiles):
            self.files.ignored = folder

    def close(self) -> None:
        """Wake whoever waits for further files, and remove temporary ones."""
        self._closing.close()

    def _tell(self, problem: str, outcome: str) -> None:
        """Log a problem and keep it: it makes the exit status 1."""
        LOGGER.warning(f"WARNING: {outcome}{problem}")
        self.problems.append(problem)

    def _image(self, path: str, place: str, title: str, channels: int) -> SourceFrame:
        if Path(path).suffix.lower() not in MEDIA_SUFFIXES:
            raise ImageError(path, f"neither an image nor a video; {known_formats()}")

        def warn(reason: str) -> None:
            self._tell(f"{title}: {reason}", "")

        return SourceFrame(path, read_image(path, channels=channels, warn=warn), f"image {place} {title}")

    def _video_frames(self, path: str, place: str, title: str, channels: int) -> Iterator[SourceFrame]:
        """Every `vid_stride`-th frame from the first; ImageError where there is none, what is missing is told."""
        if not Path(path).is_file():
            raise ImageError(path, "No such file")
        capture = cv2.VideoCapture(path, cv2.CAP_ANY, [cv2.CAP_PROP_N_THREADS, self.decode_threads])
        try:
            if not capture.isOpened():
                raise ImageError(path, "damaged, or not a video in a known format")
            total = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            fps = frame_rate(capture.get(cv2.CAP_PROP_FPS)) / self.vid_stride
            number = gaps = 0
            while (failures := _grab(capture, MOST_FAILURES if number < total else 0)) is not None:
                number += 1
                gaps += failures > 0
                if (number - 1) % self.vid_stride:
                    continue
                decoded, frame = capture.retrieve()
                if decoded:
                    heading = f"video {place} ({number}/{total or '?'}) {title}"
                    frame = fit_channels(frame, channels, path)
                    yield SourceFrame(path, frame, heading, number, fps, self.vid_stride)
        finally:
            capture.release()
        if not number:
            raise ImageError(path, "damaged, no frame of it can be read")
        if gaps:
            self._tell(f"{title}: damaged, {number} of {total} frames can be read", "")
        elif number < total * COMPLETE_SHARE:
            self._tell(f"{title}: breaks off after frame {number} of {total}", "")


def _grab(capture: cv2.VideoCapture, patience: int) -> int | None:
    """Go on to the next frame, over at most `patience` that cannot be read: how many these were, None at the end."""
    return next((failures for failures in range(patience + 1) if capture.grab()), None)
