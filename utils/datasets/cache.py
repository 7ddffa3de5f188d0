"""Decoded images kept between epochs: in memory that all workers share, or as array files beside the images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from utils.core.logging import LOGGER
from utils.imaging.letterbox import load_size

MARGIN = 1.1  # room that must be there for each byte of images
SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
THREADS = 8

Loader = Callable[[int], np.ndarray]


class ImageCache(Protocol):
    """Images at their load size, by position."""

    def get(self, i: int) -> np.ndarray:
        """(H, W, C) uint8; a view that must not be written to."""
        ...


class MemoryCache:
    """All images in one block of shared memory; worker processes map it, however they are started."""

    def __init__(self, shapes: np.ndarray, load: Loader) -> None:
        self.shapes = shapes  # (N, 3)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(shapes.prod(axis=1))])
        self.block = torch.empty(int(self.starts[-1]), dtype=torch.uint8).share_memory_()
        in_threads(lambda i: np.copyto(self.get(i), load(i)), len(shapes))

    def get(self, i: int) -> np.ndarray:
        """(H, W, C) uint8 view of the block."""
        return self.block.numpy()[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])


class DiskCache:
    """One array file (.npy format) beside each image, named after the image and the longer side."""

    def __init__(self, paths: Sequence[str], shapes: np.ndarray, longest: int, load: Loader) -> None:
        self.files = [cache_file(path, longest) for path in paths]
        self.shapes = shapes

        def fill(i: int) -> None:
            if not is_fresh(self.files[i], Path(paths[i]), tuple(shapes[i])):
                write_array(self.files[i], load(i))

        in_threads(fill, len(paths))

    def get(self, i: int) -> np.ndarray:
        """(H, W, C) uint8, mapped: only the parts that are used are read."""
        return np.load(self.files[i], mmap_mode="r", allow_pickle=False)


def build_cache(
    kind: str | None,
    paths: Sequence[str],
    sizes_hw: np.ndarray,
    load: Loader,
    *,
    longest: int,
    channels: int,
    as_is: bool = False,
    what: str = "images",
) -> ImageCache | None:
    """The cache asked for, filled; None, with a message, where it does not fit or cannot be written.

    Args:
        kind: "ram", "disk" or None.
        paths: N image files.
        sizes_hw: (N, 2) their sizes, pixels.
        load: gives image i at its load size, (H, W, channels).
        longest: longer side of the load size.
        channels: of each image.
        as_is: the sizes are the load sizes themselves; `longest` only tells files of different runs apart.
        what: what messages call them.
    """
    if not kind or not len(paths):
        return None
    loaded = sizes_hw if as_is else [load_size((int(h), int(w)), longest) for h, w in sizes_hw]
    shapes = np.array([(*size_hw, channels) for size_hw in loaded], np.int64)
    total = int(shapes.prod(axis=1).sum())
    room, place = (free_memory(), "memory") if kind == "ram" else (free_disk(paths), "disk space")
    if total * MARGIN > room:
        LOGGER.warning(
            f"--cache {kind}: {len(paths)} {what} take {total / 2**30:.1f} GiB and {room / 2**30:.1f} GiB of {place} "
            "are free: reading from the files instead"
        )
        return None
    try:
        cache = MemoryCache(shapes, load) if kind == "ram" else DiskCache(paths, shapes, longest, load)
    except OSError as error:
        LOGGER.warning(f"--cache {kind}: {error}: reading from the files instead")
        return None
    LOGGER.info(f"Cached {len(paths)} {what}, {total / 2**30:.2f} GiB, {'in memory' if kind == 'ram' else 'on disk'}")
    return cache


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Call `work` for 0 to count - 1, a few at a time; the first error is raised."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, range(count)):
            pass


def cache_file(path: str | Path, longest: int) -> Path:
    """`photo.jpg` at 640 px is kept in `photo.jpg.640.cache`; its suffix keeps it from being taken for an image."""
    return Path(f"{path}.{longest}.cache")


def is_fresh(file: Path, image: Path, shape: tuple[int, ...]) -> bool:
    """Whether an array file is newer than its image and of the expected shape."""
    try:
        if file.stat().st_mtime_ns < image.stat().st_mtime_ns:
            return False
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return array.shape == shape and array.dtype == np.uint8


def write_array(file: Path, array: np.ndarray) -> None:
    """Write under a temporary name, then rename, so that a broken run leaves no half file."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def free_disk(paths: Sequence[str]) -> int:
    """Bytes free where the first image lies."""
    return shutil.disk_usage(Path(paths[0]).parent).free


def free_memory() -> int:
    """Bytes that may still be taken: of the machine, of this container and of the shared memory file system."""
    limits = [available_memory()]
    with suppress(OSError, ValueError):  # no container, or no limit ("max")
        limits.append(int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    if SHARED_MEMORY.is_dir():
        limits.append(shutil.disk_usage(SHARED_MEMORY).free)
    return max(0, min(limits))


def available_memory() -> int:
    """Bytes the machine can give without swapping; without a way to tell, half a GiB."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**29
