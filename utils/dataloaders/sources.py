"""Loaders for inference: `LoadImages`, `LoadScreenshots`, `LoadStreams` and `LoadWebcam`."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.sources.factory import SourceOptions, open_source, open_streams
from utils.datasets.sources.frames import VIDEO_SUFFIXES, SourceFrame
from utils.datasets.sources.media import MediaSource, open_video
from utils.datasets.sources.screen import ScreenSource
from utils.datasets.sources.streams import StreamSource
from utils.imaging.letterbox import letterbox
from utils.imaging.read import IMAGE_SUFFIXES

IMG_FORMATS = tuple(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
VID_FORMATS = tuple(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))

Size = int | Sequence[int]  # side of a square, or height and width
Transforms = Callable[[np.ndarray], Any]  # computes the network input from a BGR frame
ImageItem = tuple[str, Any, np.ndarray, cv2.VideoCapture | None, str]
StreamItem = tuple[list[str], np.ndarray, list[np.ndarray], None, str]


class LoadImages:
    """Iterator over images, then videos: (path, im, im0, cap, s).

    `im` is (3, h, w) uint8 RGB, letterboxed; `im0` the BGR image; `cap` the video that is being read, or None for an
    image; `s` the description of the frame for logs. Files that cannot be read are logged and skipped.

    Args:
        path: value of `detect.py --source`, or a list of them.
        img_size, stride, auto: options of the letterbox.
        transforms: function that computes `im` from `im0`, instead of the letterbox.
        vid_stride: use every Nth frame of videos.

    Attributes:
        files, video_flag: the files, images first, and whether each is a video.
        nf: number of files.
        mode: "image" or "video", of the last item.
        count: files that are finished.
        cap, frame, frames: the video that is being read, the number of its last item, from 1, and of all its items;
            before the first item, those of the first video.
    """

    def __init__(
        self,
        path: Any,
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms | None = None,
        vid_stride: int = 1,
    ) -> None:
        self.img_size, self.stride, self.auto, self.transforms = img_size, int(stride), auto, transforms
        self.vid_stride = vid_stride
        paths = path if isinstance(path, list | tuple) else [path]
        self._paths = [str(p) if "://" in str(p) else str(Path(p).resolve()) for p in paths]
        self._sources: list[MediaSource] = []
        self._items: Iterator[ImageItem] | None = None
        self.files: list[str] = []
        self.mode, self.count, self.frame, self.frames = "image", 0, 0, 0
        self.cap: cv2.VideoCapture | None = None
        self._open()
        if any(self.video_flag):
            self.new_video(self.files[self.video_flag.index(True)])

    def __len__(self) -> int:
        return self.nf

    def __iter__(self) -> LoadImages:
        """Start with the first file."""
        self._items = self._generate()
        self.count = 0
        return self

    def __next__(self) -> ImageItem:
        if self._items is None:
            iter(self)
        return next(self._items)  # type: ignore[arg-type]

    def new_video(self, path: str) -> None:
        """Open a video as `cap` and count its frames, without an effect on the iteration."""
        self._set_capture(open_video(path))

    def _open(self) -> None:
        """Find the files; InputError if there are none, or a live source."""
        sources = [open_source(path, SourceOptions(self.vid_stride)) for path in self._paths]
        self._sources = [source for source in sources if isinstance(source, MediaSource)]
        if len(self._sources) < len(sources):
            for source in sources:
                source.close()
            raise InputError(f"{', '.join(self._paths)}: not a file; use LoadStreams for streams")
        if all(source.total is not None for source in self._sources):  # else standard input
            self.files = sorted((file for source in self._sources for file in source.files), key=_is_video)
        self.nf, self.video_flag = len(self.files), list(map(_is_video, self.files))

    def _generate(self) -> Iterator[ImageItem]:
        if not self._sources:  # closed by an earlier iteration
            self._open()
        sources, self._sources = self._sources, []
        files = self.files or itertools.chain.from_iterable(source.files for source in sources)
        titles = {file: title for source in sources for file, title in source.titles.items()}
        closers = [source.close for source in sources]
        media = MediaSource(files, vid_stride=self.vid_stride, titles=titles, on_close=closers)
        with closing(media):
            for (item,) in media.batches():
                is_image = item.capture is None
                self.count = media.num_inputs - (not is_image)
                yield self._to_item(item)

    def _to_item(self, item: SourceFrame) -> ImageItem:
        if item.capture is None:
            self.mode = "image"
        else:
            self.mode = "video"
            if item.capture is not self.cap:
                self._set_capture(item.capture)
            self.frame += 1
        im = _to_input(item.frame, self.img_size, self.stride, self.auto, self.transforms)
        return item.path, im, item.frame, item.capture, f"{item.heading}: "

    def _set_capture(self, capture: cv2.VideoCapture) -> None:
        if self.cap is not None:
            self.cap.release()
        self.cap, self.frame = capture, 0
        self.frames = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) // self.vid_stride


class LoadScreenshots:
    """Endless iterator over screenshots: (name, im, im0, None, s), as in `LoadImages`.

    Args:
        source: `screen [N] [left top width height]`.
        img_size, stride, auto, transforms: as in `LoadImages`.

    Attributes:
        screen: number of the screen.
        left, top, width, height: of the captured region, in pixels of the whole desktop.
        frame: number of the last item, from 0; -1 before the first.
    """

    mode = "stream"

    def __init__(
        self,
        source: str,
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms | None = None,
    ) -> None:
        self.img_size, self.stride, self.auto, self.transforms = img_size, int(stride), auto, transforms
        self._source, self.frame = ScreenSource(source), -1
        self.source, self.screen = source, int(self._source.name.removeprefix("screen"))
        self.monitor = area = dict(self._source.area)
        self.left, self.top, self.width, self.height = area["left"], area["top"], area["width"], area["height"]
        self._batches = self._source.batches()

    def __iter__(self) -> LoadScreenshots:
        return self

    def __next__(self) -> ImageItem:
        (item,) = next(self._batches)
        self.frame += 1
        im = _to_input(item.frame, self.img_size, self.stride, self.auto, self.transforms)
        return item.path, im, item.frame, None, f"{item.heading}: "

    def close(self) -> None:
        """Release the screen."""
        self._source.close()


class LoadStreams:
    """Iterator over the latest frames of all streams: (names, im, im0s, None, ""), until all streams have ended.

    `im` is (n, 3, h, w) uint8 RGB, letterboxed; `im0s` the BGR frames in the order of the streams. A stream without a
    new frame repeats its last one; before its first frame it is black.

    Args:
        sources: a stream or a video file, a text file with one of them per word, or a list of them.
        img_size, stride, auto, transforms, vid_stride: as in `LoadImages`; `auto` requires frames of one shape.

    Attributes:
        sources: names of the streams, without user, password and query.
        imgs: the latest frame of each stream.
        fps, frames: frame rate and number of frames of each stream; infinite for live ones.
        threads: their reader threads.
        count: index of the last item, from 0; -1 before the first.
        rect: whether the letterboxed frames have the same size.
    """

    mode = "stream"

    def __init__(
        self,
        sources: str | Path | Sequence[str] = "streams.txt",
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms | None = None,
        vid_stride: int = 1,
    ) -> None:
        self.img_size, self.stride, self.auto, self.transforms = img_size, int(stride), auto, transforms
        self.vid_stride = vid_stride
        listed = sources if isinstance(sources, list | tuple) else str(sources)
        self._source: StreamSource = open_streams(listed, SourceOptions(vid_stride))
        weakref.finalize(self, self._source.close).atexit = False
        self._batches = self._source.batches()
        self.sources = [stream.name for stream in self._source.streams]
        self.count = -1
        self._latest: dict[str, np.ndarray] = {}
        self._has_first = self._receive()
        self.rect = len({_letterbox(im0, img_size, self.stride, auto).shape for im0 in self.imgs}) == 1
        self.auto = auto and self.rect

    @property
    def imgs(self) -> list[np.ndarray]:
        blank = np.zeros_like(next(iter(self._latest.values()), np.zeros((1, 1, 3), np.uint8)))
        return [self._latest.get(name, blank) for name in self.sources]

    @property
    def fps(self) -> list[float]:
        return [stream.fps for stream in self._source.streams]

    @property
    def frames(self) -> list[float]:
        return [stream.total_frames for stream in self._source.streams]

    @property
    def threads(self) -> list[Any]:
        return [stream.thread for stream in self._source.streams]

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> LoadStreams:
        self.count = -1
        return self

    def __next__(self) -> StreamItem:
        if not (self._has_first or self._receive()):
            self.close()
            raise StopIteration
        self._has_first = False
        self.count += 1
        im0s = [im0.copy() for im0 in self.imgs]
        ims = [_to_input(im0, self.img_size, self.stride, self.auto, self.transforms) for im0 in im0s]
        if len({np.shape(im) for im in ims}) > 1:  # a stream that started late has another shape
            self.auto = self.rect = False
            ims = [_to_input(im0, self.img_size, self.stride, False, self.transforms) for im0 in im0s]
        return self.sources, np.stack(ims), im0s, None, ""

    def update(self, i: int, cap: cv2.VideoCapture, stream: str) -> None:
        """Read a capture to its end and keep its newest frame as `imgs[i]`, for programs with threads of their own.

        Args:
            i: position of the stream.
            cap: an open capture; every `vid_stride`-th frame is decoded.
            stream: its name for the log.
        """
        number = 0
        while cap.isOpened() and cap.grab():
            number += 1
            if number % self.vid_stride:
                continue
            decoded, frame = cap.retrieve()
            if decoded:
                self._latest[self.sources[i]] = frame
        LOGGER.info(f"{stream}: ended after {number} frames")

    def close(self) -> None:
        """Stop the threads."""
        self._source.close()

    def _receive(self) -> bool:
        """Wait for new frames; False if all streams have ended."""
        frames = next(self._batches, [])
        self._latest |= {item.path: item.frame for item in frames}
        return bool(frames)


class LoadWebcam:
    """Iterator over the frames of one webcam or stream: (path, im, im0, None, s), as in `LoadImages`.

    Args:
        pipe: webcam number or stream address.
        img_size, stride: options of the letterbox.
    """

    mode = "stream"

    def __init__(self, pipe: str = "0", img_size: Size = 640, stride: int = 32) -> None:
        self.pipe, self.img_size, self.stride = str(pipe), img_size, int(stride)
        self._streams = LoadStreams([self.pipe], img_size, stride)

    @property
    def count(self) -> int:
        return self._streams.count

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> LoadWebcam:
        iter(self._streams)
        return self

    def __next__(self) -> ImageItem:
        (name,), ims, (im0,), _, _ = next(self._streams)
        return f"{name}.jpg", ims[0], im0, None, f"webcam {self.count}: "

    def close(self) -> None:
        """Stop the reader thread."""
        self._streams.close()


def _is_video(path: str) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _to_input(im0: np.ndarray, size: Size, stride: int, auto: bool, transforms: Transforms | None) -> Any:
    """(3, h, w) uint8 RGB, letterboxed."""
    if transforms:
        return transforms(im0)
    return np.ascontiguousarray(_letterbox(im0, size, stride, auto).transpose(2, 0, 1)[::-1])


def _letterbox(im0: np.ndarray, size: Size, stride: int, auto: bool) -> np.ndarray:
    size_hw = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return letterbox(im0, size_hw, auto=auto, stride=stride)[0]
