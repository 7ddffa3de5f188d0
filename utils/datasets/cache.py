"""Cache of decoded images: in memory shared by all workers, or as array files next to the images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from utils.core.logging import LOGGER
from utils.imaging.array_files import ArrayHeader, read_array, read_array_header
from utils.imaging.read import open_regular_file

MARGIN = 1.1  # required free space over the size of the images
SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
THREADS = 8

Loader = Callable[[int], np.ndarray]


class MemoryCache:
    """All images in one block of shared memory, which workers map for any start method."""

    def __init__(self, shapes: np.ndarray, load: Loader) -> None:
        self.shapes = shapes  # (N, 3)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(shapes.prod(axis=1))])
        self.block = torch.empty(int(self.starts[-1]), dtype=torch.uint8).share_memory_()
        run_threaded(lambda i: np.copyto(self.get(i), load(i)), len(shapes))

    def get(self, i: int) -> np.ndarray:
        """(H, W, C) uint8 view of image i; must not be written to."""
        return self.block.numpy()[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])


class DiskCache:
    """One array file (.npy format) next to each image, named after the image and its longer side."""

    def __init__(self, paths: Sequence[str], shapes: np.ndarray, longest: int, load: Loader) -> None:
        self.files = [get_cache_path(path, longest) for path in paths]
        self.shapes, self.load = shapes, load  # (N, 3)

        def fill(i: int) -> None:
            if not is_fresh(self.files[i], Path(paths[i]), tuple(shapes[i])):
                write_array(self.files[i], load(i))

        run_threaded(fill, len(paths))

    def get(self, i: int) -> np.ndarray:
        """(H, W, C) uint8 image i, from its image file if the array file is damaged."""
        try:
            with open_regular_file(self.files[i]) as stream:
                return read_array(stream, _check_array_file(stream, tuple(self.shapes[i])))
        except ValueError:
            return self.load(i)


ImageCache = MemoryCache | DiskCache


def build_cache(
    kind: str | None,
    paths: Sequence[str],
    sizes_hw: Sequence[Sequence[int]] | np.ndarray,
    load: Loader,
    *,
    longest: int,
    channels: int,
    label: str = "images",
) -> ImageCache | None:
    """Build and fill a cache; log a message and return None if it does not fit or cannot be written.

    Args:
        kind: "ram", "disk" or None.
        paths: N image files.
        sizes_hw: (N, 2) sizes at which they are loaded, pixels.
        load: loads image i, (H, W, channels).
        longest: nominal longer side, for file names.
        channels: of each image.
        label: name of the images in messages.
    """
    if not kind or not len(paths):
        return None
    shapes = np.array([(*size_hw, channels) for size_hw in sizes_hw], np.int64)
    total = int(shapes.prod(axis=1).sum())
    if kind == "ram":
        free, medium = get_free_memory(), "memory"
    else:
        free, medium = shutil.disk_usage(Path(paths[0]).parent).free, "disk space"
    if total * MARGIN > free:
        LOGGER.warning(
            f"--cache {kind}: {len(paths)} {label} take {total / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB of "
            f"{medium} are free: not caching"
        )
        return None
    try:
        cache = MemoryCache(shapes, load) if kind == "ram" else DiskCache(paths, shapes, longest, load)
    except OSError as error:
        LOGGER.warning(f"--cache {kind}: {error}: not caching")
        return None
    LOGGER.info(f"Cached {len(paths)} {label}, {total / 2**30:.2f} GiB, {'in memory' if kind == 'ram' else 'on disk'}")
    return cache


def run_threaded(function: Callable[[int], None], count: int) -> None:
    """Call `function` for 0 to count - 1 in threads; raise the first error."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(function, range(count)):
            pass


def get_cache_path(path: str | Path, longest: int) -> Path:
    """`photo.jpg` at 640 px is cached in `photo.jpg.640.cache`, which has no suffix of an image."""
    return Path(f"{path}.{longest}.cache")


def is_fresh(file: Path, image: Path, shape: tuple[int, ...]) -> bool:
    """Whether an array file is newer than its image and has the expected shape."""
    try:
        if file.stat().st_mtime_ns < image.stat().st_mtime_ns:
            return False
        with open_regular_file(file) as stream:
            _check_array_file(stream, shape)
    except (OSError, ValueError):
        return False
    return True


def _check_array_file(stream: BinaryIO, shape: tuple[int, ...]) -> ArrayHeader:
    """The header of an array file; ValueError if it is not a whole uint8 array of this shape."""
    header = read_array_header(stream)
    if header.shape != shape or header.dtype != np.uint8:
        raise ValueError(f"an array of shape {header.shape}, expected {shape}")
    return header


def write_array(file: Path, array: np.ndarray) -> None:
    """Write under a temporary name, then rename, so that an interrupted run leaves no partial file."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def get_free_memory() -> int:
    """Free bytes: the minimum over machine, container and shared memory file system; half a GiB if unknown."""
    limits = []
    with suppress(OSError, StopIteration):  # not Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, ValueError):  # no container, or no limit ("max")
        limits.append(int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    if SHARED_MEMORY.is_dir():
        limits.append(shutil.disk_usage(SHARED_MEMORY).free)
    return max(0, min(limits, default=2**29))
