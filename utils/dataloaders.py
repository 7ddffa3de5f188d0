"""What other programs import from `utils.dataloaders`: the sources of detect.py, fitted for the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from utils.augmentations import letterbox
from utils.core.errors import InputError
from utils.datasets.sources.frames import VIDEO_SUFFIXES, SourceFrame
from utils.datasets.sources.media import MediaSource
from utils.datasets.sources.open import SourceOptions, open_source
from utils.datasets.sources.screen import ScreenSource
from utils.datasets.sources.streams import StreamSource
from utils.imaging.read import IMAGE_SUFFIXES

__all__ = ["IMG_FORMATS", "VID_FORMATS", "LoadImages", "LoadScreenshots", "LoadStreams"]
IMG_FORMATS = tuple(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
VID_FORMATS = tuple(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))


@dataclass(frozen=True)
class Clip:
    """What is asked of a video that is being read: `get(cv2.CAP_PROP_FPS)` and its width and height."""

    fps: float
    size_hw: tuple[int, int]

    def get(self, prop: int) -> float:
        """The value of a property of cv2.VideoCapture; 0 of others than the three."""
        known = {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_HEIGHT: self.size_hw[0]}
        return float({**known, cv2.CAP_PROP_FRAME_WIDTH: self.size_hw[1]}.get(prop, 0))


class LoadImages:
    """Images and video frames one by one: (path, im, im0, cap, s).

    `im` is (3, h, w) uint8 RGB, letterboxed; `im0` the BGR image; `cap` a `Clip` for videos, else None; `s` names the
    frame for a log.

    Args:
        path: as `detect.py --source`, also several.
        img_size, stride, auto: of the letterbox. transforms: makes `im` of `im0` instead. vid_stride: every Nth frame.
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
            raise InputError(f"{path}: no files; LoadStreams reads streams")
        self.mode, self.frame, self.cap = "image", 0, None

    def __len__(self) -> int:
        return sum(getattr(source, "total", None) or 0 for source in self._sources)

    nf = property(__len__)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray, Clip | None, str]]:
        for source in self._sources:
            with closing(source):
                for frames in source.batches():
                    yield from map(self._item, frames)

    def _item(self, item: SourceFrame) -> tuple[str, np.ndarray, np.ndarray, Clip | None, str]:
        self.mode, self.frame = ("image", 0) if item.number is None else ("video", item.number)
        clip = None if item.number is None else Clip(item.fps, (item.frame.shape[0], item.frame.shape[1]))
        im = _fitted(item.frame, self.img_size, self.stride, self.auto, self.transforms)
        return item.path, im, item.frame, clip, f"{item.heading}: "


class LoadScreenshots:
    """Images of the screen one by one, without end: (name, im, im0, None, s), as of `LoadImages`.

    Args:
        source: `screen [N] [left top width height]`.
        img_size, stride, auto, transforms: as of `LoadImages`.
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
                im = _fitted(item.frame, self.img_size, self.stride, self.auto, self.transforms)
                yield item.path, im, item.frame, None, f"{item.heading}: "
                self.frame += 1


class LoadStreams:
    """The newest frame of every stream at once: (names, im, im0s, None, ""), until all streams have ended.

    `im` is (n, 3, h, w) uint8 RGB, letterboxed; `im0s` the BGR frames in the order of the streams: of one that sent
    nothing new the last one again, black before its first.

    Args:
        sources: as `detect.py --source`: a stream or a list of streams.
        img_size, stride, auto, transforms, vid_stride: as of `LoadImages`; `auto` where all frames are of one size.

    Attributes:
        count: number of what was given last, from 0; -1 before the first.
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
            raise InputError(f"{sources}: no stream; LoadImages reads files")
        self._source, self.count = source, -1
        self.sources = [stream.name for stream in source.streams]

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[tuple[list[str], np.ndarray, list[np.ndarray], None, str]]:
        newest: dict[str, np.ndarray] = {}
        with closing(self._source) as source:
            for frames in source.batches():
                self.count += 1
                newest |= {item.path: item.frame for item in frames}
                im0s = [newest.get(name, np.zeros_like(frames[0].frame)) for name in self.sources]
                auto = self.auto and len({im0.shape for im0 in im0s}) == 1
                ims = [_fitted(im0, self.img_size, self.stride, auto, self.transforms) for im0 in im0s]
                yield self.sources, np.stack(ims), [im0.copy() for im0 in im0s], None, ""


def _fitted(im0: np.ndarray, size: int | tuple[int, int], stride: int, auto: bool, transforms: Any) -> Any:
    """(3, h, w) RGB for the network."""
    if transforms:
        return transforms(im0)
    fitted = letterbox(im0, size, stride=stride, auto=auto)[0]
    return np.ascontiguousarray(fitted.transpose(2, 0, 1)[::-1])
