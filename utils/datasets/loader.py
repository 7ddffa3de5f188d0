"""Samples to batches: order of an epoch, workers, collation. Pictures do not depend on the number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.types import Batch, Sample


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Lists of (epoch, position), one list a batch, in an order drawn from (seed, epoch)."""

    def __init__(self, num_samples: int, *, batch_size: int, shuffle: bool, seed: int, drop_last: bool) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self.image_weights: np.ndarray | None = None

    def __len__(self) -> int:
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.epoch, self.order().tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(epoch, i) for i in order[start : start + self.batch_size]]

    def order(self) -> np.ndarray:
        """Positions of this epoch; with image weights drawn with replacement."""
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.image_weights is not None:
            return rng.choice(self.num_samples, self.num_samples, p=self.image_weights / self.image_weights.sum())
        return rng.permutation(self.num_samples) if self.shuffle else np.arange(self.num_samples)


class EpochLoader:
    """Batches of one epoch per iteration; workers stay alive between epochs."""

    def __init__(self, loader: DataLoader[Batch], batches: EpochBatches) -> None:
        self.loader = loader
        self.batches = batches

    @property
    def dataset(self) -> Dataset[Sample]:
        """What the batches are made of."""
        return self.loader.dataset  # type: ignore[return-value]

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None) -> None:
        """Choose the epoch of the next iteration.

        Args:
            epoch: decides order and augmentations, so that epoch k after a resume is epoch k.
            image_weights: (N,) relative chance of each picture, or None for every picture once.
        """
        self.batches.epoch = epoch
        self.batches.image_weights = image_weights

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)


def build_loader(
    dataset: Dataset[Sample],
    *,
    batch_size: int,
    workers: int = 8,
    shuffle: bool = False,
    seed: int = 0,
    quad: bool = False,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> EpochLoader:
    """The loader of a data set whose items are addressed by (epoch, position).

    Args:
        dataset: gives `Sample`s of one size per batch.
        batch_size: samples per batch; no more than the data set has.
        workers: processes that load; 0 loads in the caller.
        shuffle: new order every epoch.
        seed: of the order.
        quad: join the samples of a batch by fours.
        drop_last: leave out the last batch if it is not full.
        pin_memory: page-locked batches, for a GPU.
    """
    num_samples = len(dataset)  # type: ignore[arg-type]
    batches = EpochBatches(
        num_samples, batch_size=min(batch_size, num_samples), shuffle=shuffle, seed=seed, drop_last=drop_last
    )
    options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        **options,
    )
    return EpochLoader(loader, batches)


def start_worker(worker: int) -> None:
    """One thread per worker process: workers are the parallelism."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of equal size as one batch; BGR becomes RGB."""
    height, width, channels = samples[0].image.shape
    images = torch.empty((len(samples), channels, height, width), dtype=torch.uint8)
    for planes, sample in zip(images.numpy(), samples, strict=True):
        fill_planes(planes, sample.image)
    maps = [s.class_map for s in samples]
    return Batch(
        images=images,
        targets=torch.from_numpy(batch_targets(samples)),
        paths=[s.path for s in samples],
        letterboxes=[s.letterbox for s in samples],
        class_maps=None if any(m is None for m in maps) else torch.from_numpy(np.stack(maps)),  # type: ignore[arg-type]
    )


def fill_planes(planes: np.ndarray, image: np.ndarray) -> None:
    """Write an interleaved picture (H, W, C) into planes (C, H, W); three channels BGR -> RGB."""
    if image.shape[2] == 3:
        cv2.split(image, [planes[2], planes[1], planes[0]])
    else:
        planes[:] = image.transpose(2, 0, 1)


def batch_targets(samples: Sequence[Sample]) -> np.ndarray:
    """(N, 6) float32 rows: position in the batch, class, centre x, y, width, height over the picture's sides."""
    rows = np.zeros((sum(len(s.classes) for s in samples), 6), np.float32)
    end = 0
    for position, sample in enumerate(samples):
        start, end = end, end + len(sample.classes)
        height, width = sample.image.shape[:2]
        x1, y1, x2, y2 = sample.boxes_xyxy.reshape(-1, 4).T
        rows[start:end, 0] = position
        rows[start:end, 1] = sample.classes
        rows[start:end, 2:] = np.stack(
            [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], axis=1
        )
    return rows
