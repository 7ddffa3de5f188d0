"""`create_dataloader`, the loader that keeps its workers, and their seeds."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from utils.core.distributed import get_local_world_size, local_main_first
from utils.core.hardware import available_cpus
from utils.core.logging import LOGGER
from utils.core.ranks import RANK
from utils.dataloaders.detection import LoadImagesAndLabels
from utils.datasets.loader import init_worker

PIN_MEMORY = os.getenv("PIN_MEMORY", "true").lower() == "true"  # page-locked memory for batches, if there is a GPU
ORDER_SEED = 6148914691236517205  # plus the rank: seed of the order and of the workers, as in YOLOv5


def seed_worker(worker_id: int) -> None:
    """Seed Python's and NumPy's global generators of a worker process by torch's seed, which differs by worker."""
    seed = torch.initial_seed() % (1 << 32)
    random.seed(seed)
    np.random.seed(seed)  # augmentations draw from it


def prepare_worker(worker_id: int) -> None:
    """Seed a worker process, limit it to one thread and let the main process handle Ctrl-C."""
    init_worker(worker_id)
    seed_worker(worker_id)


class InfiniteDataLoader(DataLoader[Any]):
    """DataLoader whose workers live as long as it does, instead of for one epoch; same arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("persistent_workers", bool(kwargs.get("num_workers", 0)))
        super().__init__(*args, **kwargs)


class _RepeatSampler:
    """Sampler that repeats another one forever."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(itertools.repeat(self.sampler))


def create_dataloader(
    path: Any,
    imgsz: int,
    batch_size: int,
    stride: int,
    single_cls: bool = False,
    hyp: Mapping[str, Any] | None = None,
    augment: bool = False,
    cache: bool | str | None = False,
    pad: float = 0.0,
    rect: bool = False,
    rank: int = -1,
    workers: int = 8,
    image_weights: bool = False,
    quad: bool = False,
    prefix: str = "",
    shuffle: bool = False,
) -> tuple[DataLoader[Any], LoadImagesAndLabels]:
    """The loader and the data set of a split.

    Batches are (images (B, 3, H, W) uint8, targets (n, 6): image index, class, xywhn; paths, shapes), see
    `LoadImagesAndLabels`.

    Args:
        path: folder, list file, glob pattern or a list of them.
        imgsz, stride, single_cls, hyp, augment, cache, pad, rect, image_weights, prefix: as in `LoadImagesAndLabels`.
        batch_size: images per batch, limited to the size of the data set.
        rank: of this process in distributed training, whose loader gets a `DistributedSampler`; -1 for one process.
        workers: maximum number of worker processes.
        quad: combine each four images of a batch into one of twice the size.
        shuffle: new order every epoch; ignored with `rect`, which sorts images.
    """
    shuffle = check_shuffle(shuffle, rect)
    with local_main_first():
        dataset = LoadImagesAndLabels(
            path, imgsz, batch_size, augment, hyp, rect, image_weights, cache, single_cls, stride, pad, prefix=prefix
        )
    collate = LoadImagesAndLabels.collate_fn4 if quad else LoadImagesAndLabels.collate_fn
    loader = build_loader(dataset, batch_size, rank, workers, shuffle, collate, reuse_workers=not image_weights)
    return loader, dataset


def check_shuffle(shuffle: bool, rect: bool) -> bool:
    """`shuffle`, or False with a warning if images are sorted by aspect ratio."""
    if shuffle and rect:
        LOGGER.warning("WARNING: rect sorts images by aspect ratio, so they are not shuffled")
    return shuffle and not rect


def build_loader(
    dataset: Dataset[Any],
    batch_size: int,
    rank: int,
    workers: int,
    shuffle: bool,
    collate: Callable[[Any], Any] | None = None,
    *,
    reuse_workers: bool = True,
) -> DataLoader[Any]:
    """A loader of `dataset`; with `reuse_workers` False it starts its workers in every epoch, with a fresh data set."""
    batch_size = max(1, min(batch_size, len(dataset)))  # type: ignore[arg-type]
    workers = min(available_cpus() // get_local_world_size(), batch_size if batch_size > 1 else 0, workers)
    sampler: DistributedSampler[Any] | None = None if rank == -1 else DistributedSampler(dataset, shuffle=shuffle)
    generator = torch.Generator()
    generator.manual_seed(ORDER_SEED + RANK)
    kind: type[DataLoader[Any]] = InfiniteDataLoader if reuse_workers else DataLoader
    return kind(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle and sampler is None,
        num_workers=workers,
        sampler=sampler,
        pin_memory=PIN_MEMORY and torch.cuda.is_available(),
        collate_fn=collate,
        worker_init_fn=prepare_worker,
        generator=generator,
    )
