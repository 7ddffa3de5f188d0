"""Data loading: batch sampler, worker processes and collate function.

Samples do not depend on the number of workers.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.core.device import keep_freed_memory
from utils.core.distributed import get_local_world_size, get_rank, get_world_size
from utils.core.errors import InputError
from utils.core.hardware import available_cpus
from utils.core.logging import LOGGER
from utils.core.types import Batch, Sample
from utils.datasets.augment.compose import IGNORE
from utils.datasets.detection import SampleKey
from utils.datasets.masks import MaskBuilder
from utils.imaging.console import silence_decoders
from utils.imaging.letterbox import GRAY
from utils.imaging.read import ImageError

POOL = 32  # candidates for the other images of a mosaic, with image weights


@dataclass(frozen=True)
class BatchShard:
    """Part of the batches that a rank loads.

    Attributes:
        rank, world_size: of this process.
        whole: distribute whole batches over the ranks; otherwise each batch is split over all ranks.
        group: images of a batch that stay together.
    """

    rank: int = 0
    world_size: int = 1
    whole: bool = False
    group: int = 1

    def select(self, keys: list[SampleKey]) -> list[SampleKey]:
        """This rank's part of a batch; the first ranks get the remainder."""
        groups = -(-len(keys) // self.group)
        each, rest = divmod(groups, self.world_size)
        first = self.rank * each + min(self.rank, rest)
        last = first + each + (self.rank < rest)
        return keys[first * self.group : last * self.group]


@dataclass(frozen=True)
class EmptyBatch:
    """Keys or samples of a rank that gets no images of a batch.

    Attributes:
        template: keys or samples of another rank, for the shapes of the empty batch.
    """

    template: Any


class EpochBatchSampler(Sampler["list[SampleKey] | EmptyBatch"]):
    """Batches as lists of (epoch, position), in an order that depends on (seed, epoch).

    All ranks draw the same batches and load their shards: in training a part of every batch, in evaluation every
    n-th batch.

    With image weights, positions are drawn with replacement, each with a pool of others from the same distribution for
    its mosaic.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        drop_last: bool = False,
        shard: BatchShard | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.shard = shard or BatchShard()
        self.epoch = 0
        self.first = 0  # first batch; a resumed epoch skips the ones before
        self.image_weights: np.ndarray | None = None

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        total, shard = self.num_batches, self.shard
        return len(range(shard.rank, total, shard.world_size)) if shard.whole else total

    @property
    def num_batches(self) -> int:
        """Batches of all ranks."""
        full, rest = divmod(self.num_samples, self.batch_size)
        return full + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[list[SampleKey] | EmptyBatch]:
        shard = self.shard
        for number, keys in enumerate(self.iter_batches()):
            if number < self.first:
                continue
            if shard.whole:
                if number % shard.world_size == shard.rank:
                    yield keys
            else:
                yield shard.select(keys) or EmptyBatch(keys[: shard.group])

    def iter_batches(self) -> Iterator[list[SampleKey]]:
        """Generate the batches of this epoch for all ranks."""
        rng = np.random.default_rng([self.seed, self.epoch])
        starts = range(0, self.num_batches * self.batch_size, self.batch_size)
        sizes = [min(self.batch_size, self.num_samples - start) for start in starts]
        weights = self.image_weights
        if weights is not None and weights.sum() > 0:
            cumulative = np.cumsum(weights / weights.sum())
            cumulative /= cumulative[-1]
            for size in sizes:
                positions = cumulative.searchsorted(rng.random((size, 1 + POOL)), side="right")
                yield [(self.epoch, row[0], tuple(row[1:])) for row in positions.tolist()]
            return
        order = rng.permutation(self.num_samples) if self.shuffle else np.arange(self.num_samples)
        for start, size in zip(starts, sizes, strict=True):
            yield [(self.epoch, i) for i in order[start : start + size].tolist()]


class EpochLoader:
    """Yields the batches of one epoch per iteration; workers persist between epochs."""

    def __init__(self, loader: DataLoader[Batch], sampler: EpochBatchSampler) -> None:
        self.loader = loader
        self.sampler = sampler
        self.dataset: Dataset[Sample] = loader.dataset.dataset  # type: ignore[attr-defined]
        self._warned = False

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        """Set the epoch of the next iteration.

        Args:
            epoch: determines order and augmentations, so that epoch k after a resume is epoch k.
            image_weights: (N,) sampling weight of each image, or None for every image once.
            first: first batch of the epoch.
        """
        self.sampler.epoch, self.sampler.first = epoch, first
        if image_weights is not None and is_rect(self.dataset):
            if not self._warned:
                LOGGER.warning("--image-weights is ignored with --rect, which sorts images by aspect ratio")
            self._warned, image_weights = True, None
        self.sampler.image_weights = image_weights

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """The batches; InputError if a verified image cannot be read any more."""
        for batch in self.loader:
            if isinstance(batch, ImageError):
                raise InputError(f"{batch}; it was readable before: restore it, then resume or restart")
            yield batch


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
    masks: MaskBuilder | None = None,
) -> EpochLoader:
    """Build the loader of a data set with (epoch, position) keys.

    In distributed runs, each rank loads a part of every batch if the data set augments, else whole batches.

    Args:
        dataset: `Sample`s that have the same size within a batch.
        batch_size: samples per batch, limited to the size of the data set.
        workers: number of worker processes; 0 loads in the main process.
        shuffle: new order every epoch.
        seed: of the order.
        quad: combine each four samples of a batch into one.
        drop_last: drop the last batch if it is incomplete.
        pin_memory: use page-locked memory, for a GPU.
        masks: builds instance masks from polygons; None for no masks.
    """
    num_samples = len(dataset)  # type: ignore[arg-type]
    if shuffle and is_rect(dataset):
        LOGGER.warning("--rect: images are sorted by aspect ratio and not shuffled")
        shuffle = False
    batch_size = max(1, min(batch_size, num_samples))
    whole = not getattr(dataset, "augment", False)
    sampler = EpochBatchSampler(
        num_samples,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        shard=BatchShard(get_rank(), get_world_size(), whole=whole, group=4 if quad else 1),
    )
    cpus = max(1, available_cpus() // get_local_world_size())
    workers = min(workers, cpus, batch_size if batch_size > 1 else 0)
    keep_freed_memory()
    options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    loader: DataLoader[Any] = DataLoader(
        BatchReader(dataset, quad_seed=seed if quad else None),
        batch_sampler=sampler,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=partial(collate_or_error, masks=masks),
        pin_memory=pin_memory,
        worker_init_fn=init_worker,
        generator=torch.Generator(),  # separate from the trainer's random state
        **options,
    )
    return EpochLoader(loader, sampler)


def is_rect(dataset: Dataset[Sample]) -> bool:
    """Whether the input size of a data set depends on the batch (--rect)."""
    return getattr(dataset, "shapes_hw", None) is not None


class BatchReader(Dataset[Sample]):
    """Loads whole batches; an unreadable image is returned as an `ImageError`.

    If raised, it would reach the main process as text with a traceback.

    Args:
        quad_seed: combine each four samples of a batch into one, see `load_quad`; None for single samples.
    """

    def __init__(self, dataset: Dataset[Sample], *, quad_seed: int | None = None) -> None:
        self.dataset = dataset
        self.quad_seed = quad_seed

    def __getitems__(self, keys: list[SampleKey] | EmptyBatch) -> list[Sample] | EmptyBatch | ImageError:
        """Load the samples of a batch; called by DataLoader."""
        if isinstance(keys, EmptyBatch):
            samples = self.__getitems__(keys.template)
            return samples if isinstance(samples, ImageError) else EmptyBatch(samples)
        try:
            if self.quad_seed is None:
                return [self.dataset[key] for key in keys]
            groups = (keys[start : start + 4] for start in range(0, len(keys), 4))
            return [load_quad(self.dataset, group, self.quad_seed) for group in groups]
        except ImageError as error:
            return error


def load_quad(dataset: Dataset[Sample], keys: Sequence[SampleKey], seed: int) -> Sample:
    """One sample of twice the size from up to four: a 2x2 tiling, or the first one upscaled.

    The choice depends on (seed, epoch, position of the first). Missing tiles of an incomplete group are gray.
    """
    epoch, first, *_ = (0, keys[0]) if isinstance(keys[0], int) else keys[0]
    if np.random.default_rng([seed, epoch, first, len(keys)]).random() < 0.5:
        return upscale(dataset[keys[0]])
    return tile([dataset[key] for key in keys])


def upscale(sample: Sample) -> Sample:
    """The sample at twice its size."""
    height, width, channels = sample.image.shape
    image = cv2.resize(sample.image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    polygons = sample.polygons
    if polygons is not None:
        polygons = [[ring * 2 for ring in rings] for rings in polygons]
    semantic_mask = None if sample.semantic_mask is None else sample.semantic_mask.repeat(2, axis=0).repeat(2, axis=1)
    image = image.reshape(2 * height, 2 * width, channels)
    return Sample(image, sample.boxes_xyxy * 2, sample.classes, polygons, semantic_mask, sample.path)


def tile(samples: Sequence[Sample]) -> Sample:
    """Tile up to four samples of the same size 2x2, in reading order."""
    height, width, channels = samples[0].image.shape
    image = np.full((2 * height, 2 * width, channels), GRAY, np.uint8)
    semantic_mask = None if samples[0].semantic_mask is None else np.full((2 * height, 2 * width), IGNORE, np.uint8)
    boxes, polygons = [], []
    for n, sample in enumerate(samples):
        top, left = n // 2 * height, n % 2 * width
        image[top : top + height, left : left + width] = sample.image
        if semantic_mask is not None:
            semantic_mask[top : top + height, left : left + width] = sample.semantic_mask
        boxes.append(sample.boxes_xyxy + np.array([left, top, left, top], np.float32))
        polygons += [[ring + np.array([left, top]) for ring in rings] for rings in sample.polygons or []]
    return Sample(
        image,
        np.concatenate(boxes),
        np.concatenate([sample.classes for sample in samples]),
        None if samples[0].polygons is None else polygons,
        semantic_mask,
        samples[0].path,
    )


def init_worker(worker: int) -> None:
    """Limit a worker to one thread, let the main process handle Ctrl-C, and discard what image decoders print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence_decoders()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


def collate_or_error(
    samples: list[Sample] | EmptyBatch | ImageError, *, masks: MaskBuilder | None = None
) -> Batch | ImageError:
    """Collate the output of `BatchReader`; an `ImageError` is returned unchanged."""
    if isinstance(samples, EmptyBatch):
        return collate(samples.template, masks=masks).make_empty()
    return samples if isinstance(samples, ImageError) else collate(samples, masks=masks)


def collate(samples: Sequence[Sample], *, masks: MaskBuilder | None = None) -> Batch:
    """Collate samples of the same size, with BGR converted to RGB and images in channels_last memory format."""
    pixels = torch.empty((len(samples), *samples[0].image.shape), dtype=torch.uint8)  # (B, H, W, C)
    for target, sample in zip(pixels.numpy(), samples, strict=True):
        if target.shape[2] == 3:
            cv2.cvtColor(sample.image, cv2.COLOR_BGR2RGB, dst=target)
        else:
            target[:] = sample.image
    semantic_masks, labels = [s.semantic_mask for s in samples], [s.label for s in samples]
    originals = [torch.from_numpy(s.original_mask) for s in samples if s.original_mask is not None]
    return Batch(
        images=pixels.permute(0, 3, 1, 2),
        targets=torch.from_numpy(build_targets(samples)),
        paths=[s.path for s in samples],
        letterboxes=[s.letterbox for s in samples],
        masks=None if masks is None else masks(samples),
        semantic_masks=None
        if any(mask is None for mask in semantic_masks)
        else torch.from_numpy(np.stack(semantic_masks)),  # type: ignore[arg-type]
        labels=None if None in labels else torch.tensor(labels, dtype=torch.int64),
        original_masks=originals if len(originals) == len(samples) else None,
    )


def build_targets(samples: Sequence[Sample]) -> np.ndarray:
    """(N, 6) float32 rows: image index in the batch, class, center x, y, width, height over the image size."""
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
