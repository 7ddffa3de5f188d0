"""Loaders with the arguments and items of releases up to 6.1, for `utils.datasets`."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from utils.dataloaders import loaders, sources
from utils.dataloaders.detection import LoadImagesAndLabels

OLD_LENGTH = 4  # values of an item up to release 6.0


class LegacyItem(tuple[Any, ...]):
    """(path, im, im0, cap, s) of release 6.1, which also unpacks into four names, as items of 6.0 and before did."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:OLD_LENGTH] if count_targets(1) == OLD_LENGTH else self[:])


def count_targets(depth: int) -> int | None:
    """Number of names into which a calling function unpacks a value at present; None if it does something else.

    Args:
        depth: callers between that function and this one.
    """
    frame = sys._getframe(depth + 1)
    code, position = frame.f_code.co_code, frame.f_lasti
    unpacks = position >= 0 and dis.opname[code[position]] == "UNPACK_SEQUENCE"
    return code[position + 1] if unpacks else None


class Mode(str):
    """Kind of the last item; "image" equals also "images", its name up to release 3.1."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) or (str.__eq__(self, "image") and other == "images")

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class LoadImages(sources.LoadImages):
    """As `utils.dataloaders.LoadImages`, with items that unpack into four or five names."""

    @property
    def mode(self) -> Mode:  # type: ignore[override]
        return Mode(self._mode)

    @mode.setter
    def mode(self, value: str) -> None:
        self._mode = value

    @property
    def nframes(self) -> int:
        """`frames` by its name up to release 5.0."""
        return self.frames

    def __next__(self) -> LegacyItem:  # type: ignore[override]
        return LegacyItem(super().__next__())


class LoadStreams(sources.LoadStreams):
    """As `utils.dataloaders.LoadStreams`, with items that unpack into four or five names."""

    def __next__(self) -> LegacyItem:  # type: ignore[override]
        return LegacyItem(super().__next__())


class LoadWebcam(sources.LoadWebcam):
    """As `utils.dataloaders.LoadWebcam`, with items that unpack into four or five names."""

    def __next__(self) -> LegacyItem:  # type: ignore[override]
        return LegacyItem(super().__next__())


def create_dataloader(
    path: Any,
    imgsz: int,
    batch_size: int,
    stride: int,
    single_cls: Any = False,
    hyp: Mapping[str, Any] | None = None,
    augment: bool = False,
    cache: bool | str | None = False,
    pad: float = 0.0,
    rect: bool = False,
    rank: int = -1,
    *args: Any,
    **kwargs: Any,
) -> tuple[DataLoader[Any], LoadImagesAndLabels]:
    """As `utils.dataloaders.create_dataloader`, also with the arguments of releases up to 5.0.

    Those have an object `opt` with the attribute `single_cls` in the place of `single_cls`, and `world_size` between
    `rank` and `workers`, which is not needed.
    """
    opt = kwargs.pop("opt", single_cls)
    kwargs.pop("world_size", None)
    if hasattr(opt, "single_cls"):
        single_cls, args = opt.single_cls, args[1:]
    return loaders.create_dataloader(
        path, imgsz, batch_size, stride, single_cls, hyp, augment, cache, pad, rect, rank, *args, **kwargs
    )


def load_image(self: LoadImagesAndLabels, i: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """`LoadImagesAndLabels.load_image` as a function."""
    return self.load_image(i)


def load_mosaic(self: LoadImagesAndLabels, index: int) -> tuple[np.ndarray, np.ndarray]:
    """`LoadImagesAndLabels.load_mosaic` as a function."""
    return self.load_mosaic(index)


def load_mosaic9(self: LoadImagesAndLabels, index: int) -> tuple[np.ndarray, np.ndarray]:
    """`LoadImagesAndLabels.load_mosaic9` as a function."""
    return self.load_mosaic9(index)
