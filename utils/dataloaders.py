"""Public address of the input loaders `LoadImages`, `LoadScreenshots` and `LoadStreams`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from utils.augmentations import letterbox
from utils.core.errors import InputError
from utils.datasets.sources.factory import SourceOptions, open_source
from utils.datasets.sources.frames import VIDEO_SUFFIXES, SourceFrame
from utils.datasets.sources.media import MediaSource
from utils.datasets.sources.screen import ScreenSource
from utils.datasets.sources.streams import StreamSource
from utils.imaging.read import IMAGE_SUFFIXES

__all__ = ["IMG_FORMATS", "VID_FORMATS", "LoadImages", "LoadScreenshots", "LoadStreams"]
IMG_FORMATS = tuple(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
VID_FORMATS = tuple(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))


@dataclass(frozen=True)
class Clip:
    """Properties of a video: `get` returns its frame rate, width and height like cv2.VideoCapture."""

    fps: float
    size_hw: tuple[int, int]

    def get(self, prop: int) -> float:
        """Value of a property of cv2.VideoCapture; 0 for others than the three."""
        height, width = self.size_hw
        properties = {
            cv2.CAP_PROP_FPS: self.fps,
            cv2.CAP_PROP_FRAME_HEIGHT: height,
            cv2.CAP_PROP_FRAME_WIDTH: width,
        }
        return float(properties.get(prop, 0))


class LoadImages:
    """Iterator over images and video frames: (path, im, im0, cap, s).

    `im` is (3, h, w) uint8 RGB, letterboxed; `im0` the BGR image; `cap` a `Clip` for videos, or else None; `s` the
    description of the frame for logs.

    Args:
        path: value of `detect.py --source`, or a list of them.
        img_size, stride, auto: options of the letterbox.
        transforms: function that computes `im` from `im0`, instead of the letterbox.
        vid_stride: use every Nth frame of videos.
    """

    def __init__(
        self,
        path: Any,
        img_size: int | tuple[int, int] = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Any = None,
        vid_stride: int = 1,
    ) -> None:
        self.img_size, self.stride, self.auto, self.transforms = img_size, stride, auto, transforms
        options = SourceOptions(vid_stride)
        self._sources = [open_source(str(p), options) for p in (path if isinstance(path, list | tuple) else [path])]
        if any(not isinstance(source, MediaSource) for source in self._sources):
            raise InputError(f"{path}: not a file; use LoadStreams for streams")
        self.mode, self.frame, self.cap = "image", 0, None

    def __len__(self) -> int:
        return sum(getattr(source, "total", None) or 0 for source in self._sources)

    nf = property(__len__)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray, Clip | None, str]]:
        for source in self._sources:
            with closing(source):
                for frames in source.batches():
                    yield from map(self._to_item, frames)

    def _to_item(self, item: SourceFrame) -> tuple[str, np.ndarray, np.ndarray, Clip | None, str]:
        self.mode, self.frame = ("image", 0) if item.number is None else ("video", item.number)
        clip = None if item.number is None else Clip(item.fps, (item.frame.shape[0], item.frame.shape[1]))
        im = _to_input(item.frame, self.img_size, self.stride, self.auto, self.transforms)
        return item.path, im, item.frame, clip, f"{item.heading}: "


class LoadScreenshots:
    """Endless iterator over screenshots: (name, im, im0, None, s), as in `LoadImages`.

    Args:
        source: `screen [N] [left top width height]`.
        img_size, stride, auto, transforms: as in `LoadImages`.
    """

    mode = "stream"

    def __init__(
        self,
        source: str,
        img_size: int | tuple[int, int] = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Any = None,
    ) -> None:
        self.img_size, self.stride, self.auto, self.transforms = img_size, stride, auto, transforms
        self._source, self.frame = ScreenSource(source), 0

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray, None, str]]:
        with closing(self._source) as source:
            for (item,) in source.batches():
                im = _to_input(item.frame, self.img_size, self.stride, self.auto, self.transforms)
                yield item.path, im, item.frame, None, f"{item.heading}: "
                self.frame += 1


class LoadStreams:
    """Iterator over the latest frames of all streams: (names, im, im0s, None, ""), until all streams have ended.

    `im` is (n, 3, h, w) uint8 RGB, letterboxed; `im0s` the BGR frames in the order of the streams. A stream without a
    new frame repeats its last one; before its first frame it is black.

    Args:
        sources: value of `detect.py --source`: a stream or a list of streams.
        img_size, stride, auto, transforms, vid_stride: as in `LoadImages`; `auto` requires frames of equal size.

    Attributes:
        count: index of the last item, from 0; -1 before the first.
    """

    mode = "stream"

    def __init__(
        self,
        sources: str = "file.streams",
        img_size: int | tuple[int, int] = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Any = None,
        vid_stride: int = 1,
    ) -> None:
        self.img_size, self.stride, self.auto, self.transforms = img_size, stride, auto, transforms
        source = open_source(sources, SourceOptions(vid_stride))
        if not isinstance(source, StreamSource):
            source.close()
            raise InputError(f"{sources}: not a stream; use LoadImages for files")
        self._source, self.count = source, -1
        self.sources = [stream.name for stream in source.streams]

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[tuple[list[str], np.ndarray, list[np.ndarray], None, str]]:
        latest: dict[str, np.ndarray] = {}
        with closing(self._source) as source:
            for frames in source.batches():
                self.count += 1
                latest |= {item.path: item.frame for item in frames}
                im0s = [latest.get(name, np.zeros_like(frames[0].frame)) for name in self.sources]
                auto = self.auto and len({im0.shape for im0 in im0s}) == 1
                ims = [_to_input(im0, self.img_size, self.stride, auto, self.transforms) for im0 in im0s]
                yield self.sources, np.stack(ims), [im0.copy() for im0 in im0s], None, ""


def _to_input(im0: np.ndarray, size: int | tuple[int, int], stride: int, auto: bool, transforms: Any) -> Any:
    """(3, h, w) uint8 RGB, letterboxed."""
    if transforms:
        return transforms(im0)
    padded = letterbox(im0, size, stride=stride, auto=auto)[0]
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[::-1])
