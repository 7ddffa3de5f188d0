"""Annotated videos as .mp4 files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.files import check_space
from utils.datasets.sources.frames import SourceFrame, is_unicode
from utils.predict.mp4 import Clip, FragmentedMp4

CLIP_FRAMES = 24  # two groups of OpenCV's, for a size and quality close to those of one long video


class VideoFile:
    """An .mp4 file open for writing, of which a kill loses the last `CLIP_FRAMES` frames at most.

    OpenCV encodes short clips, which are appended to the file. A live source keeps its speed: frames missed since the
    last one are filled by repeating the new one, up to one second.

    Args:
        file: replaced if it exists.
        size_hw: frame size.

    Raises:
        InputError: OpenCV cannot write the video, or has not written all of it.
        OSError: the folder cannot be written to.
    """

    def __init__(self, file: Path, size_hw: tuple[int, ...], fps: float) -> None:
        self.file, self.size_hw, self.fps = file, (size_hw[0], size_hw[1]), fps
        self._last: int | None = None
        self._num_pending = 0  # frames in the clip
        self._mp4: FragmentedMp4 | None = None
        if not is_unicode(file.parent):
            raise InputError(f"{file}: OpenCV cannot write videos to a folder whose name is not UTF-8; add --nosave")
        descriptor, name = tempfile.mkstemp(".mp4", ".clip-", file.parent)
        os.close(descriptor)
        self._clip_file = Path(name)
        self._writer: cv2.VideoWriter | None = self._start_clip()

    def append(self, annotated: np.ndarray, source: SourceFrame) -> None:
        repeats = 1
        if source.live and source.number is not None and self._last is not None:
            repeats = min(max((source.number - self._last) // source.step, 1), max(round(self.fps), 1))
        self._last = source.number
        for _ in range(repeats):
            if self._writer is None:
                self._writer = self._start_clip()
            self._writer.write(annotated)
            self._num_pending += 1
            if self._num_pending == CLIP_FRAMES:
                self._finish_clip()

    def close(self) -> None:
        """Write the last clip and finish the file."""
        try:
            self._finish_clip()
        finally:
            self._clip_file.unlink(missing_ok=True)
            if self._mp4 is not None:
                self._mp4.close()

    def _start_clip(self) -> cv2.VideoWriter:
        codec = cv2.VideoWriter_fourcc(*"mp4v")  # type: ignore[attr-defined]
        writer = cv2.VideoWriter(str(self._clip_file), codec, self.fps, self.size_hw[::-1])
        if not writer.isOpened():
            self._clip_file.unlink(missing_ok=True)
            raise InputError(f"{self.file}: OpenCV cannot write this video; add --nosave, or check the disk")
        return writer

    def _finish_clip(self) -> None:
        """Append the clip to the file if all its frames were written: OpenCV does not report errors."""
        writer, count = self._writer, self._num_pending
        self._writer, self._num_pending = None, 0
        if writer is None or not count:
            return
        writer.release()
        try:
            clip = Clip.parse(self._clip_file.read_bytes())
        except ValueError:
            clip = None
        if clip is None or len(clip.sizes) != count:
            check_space(self.file.parent)
            raise InputError(f"{self.file}: OpenCV has not written the last {count} frames; add --nosave")
        if self._mp4 is None:
            self._mp4 = FragmentedMp4(self.file, clip)
        self._mp4.append(clip)
