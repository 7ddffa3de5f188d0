"""Samples to batches: order of an epoch, workers, collation. Images do not depend on the number of workers."""

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
from utils.core.distributed import local_world_size, rank, world_size
from utils.core.errors import InputError
from utils.core.hardware import available_cpus
from utils.core.logging import LOGGER
from utils.core.types import Batch, Sample
from utils.datasets.augment.compose import IGNORE
from utils.datasets.detection import Key
from utils.datasets.masks import MaskForm
from utils.imaging.letterbox import GRAY
from utils.imaging.read import ImageError

POOL = 32  # images that a weighted sample may draw its mosaic partners from


@dataclass(frozen=True)
class Deal:
    """What one of several processes gets of the batches that a single process would load.

    Attributes:
        rank, processes: which of them this is.
        whole: batches are dealt out one by one, as they are; else each batch is, in groups of images.
        group: images that stay together.
    """

    rank: int = 0
    processes: int = 1
    whole: bool = False
    group: int = 1

    def own(self, keys: list[Key]) -> list[Key]:
        """This process's part of a batch; the first ones get what is left over."""
        groups = -(-len(keys) // self.group)
        each, rest = divmod(groups, self.processes)
        first = self.rank * each + min(self.rank, rest)
        last = first + each + (self.rank < rest)
        return keys[first * self.group : last * self.group]


@dataclass(frozen=True)
class NoImages:
    """Stands for the keys of a process that has no part in a batch: one of another's images, for its form."""

    model: Any


class EpochBatches(Sampler["list[Key] | NoImages"]):
    """Lists of (epoch, position), one list a batch, in an order drawn from (seed, epoch).

    Several processes draw the same plan, that of a single one, and each takes its own part of it: every batch in
    training, so that together they train on that batch; in an evaluation whole batches, in turns.

    With image weights positions are drawn by chance, with replacement, and each brings a pool of others drawn
    alike, so that the partners in its mosaic follow the weights too.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        drop_last: bool = False,
        deal: Deal | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.deal = deal or Deal()
        self.epoch = 0
        self.first = 0  # batches of the plan that are passed over: a resumed epoch has had them
        self.image_weights: np.ndarray | None = None

    def __len__(self) -> int:
        """Batches of this process in a whole epoch."""
        planned, deal = self.planned, self.deal
        return len(range(deal.rank, planned, deal.processes)) if deal.whole else planned

    @property
    def planned(self) -> int:
        """Batches of all processes together."""
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[list[Key] | NoImages]:
        deal = self.deal
        for number, keys in enumerate(self.plan()):
            if number < self.first:
                continue
            if deal.whole:
                if number % deal.processes == deal.rank:
                    yield keys
            else:
                yield deal.own(keys) or NoImages(keys[: deal.group])

    def plan(self) -> Iterator[list[Key]]:
        """The batches of this epoch; an epoch of a million images is never a list."""
        rng = np.random.default_rng([self.seed, self.epoch])
        starts = range(0, self.planned * self.batch_size, self.batch_size)
        sizes = [min(self.batch_size, self.num_samples - start) for start in starts]
        weights = self.image_weights
        if weights is not None and weights.sum() > 0:
            chances = np.cumsum(weights / weights.sum())
            chances /= chances[-1]
            for size in sizes:
                drawn = chances.searchsorted(rng.random((size, 1 + POOL)), side="right")
                yield [(self.epoch, row[0], tuple(row[1:])) for row in drawn.tolist()]
            return
        order = rng.permutation(self.num_samples) if self.shuffle else np.arange(self.num_samples)
        for start, size in zip(starts, sizes, strict=True):
            yield [(self.epoch, i) for i in order[start : start + size].tolist()]


class EpochLoader:
    """Batches of one epoch per iteration; workers stay alive between epochs."""

    def __init__(self, loader: DataLoader[Batch], batches: EpochBatches) -> None:
        self.loader = loader
        self.batches = batches
        self._warned = False

    @property
    def dataset(self) -> Dataset[Sample]:
        """What the batches are made of."""
        return self.loader.dataset.dataset  # type: ignore[attr-defined, no-any-return]

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        """Choose the epoch of the next iteration.

        Args:
            epoch: decides order and augmentations, so that epoch k after a resume is epoch k.
            image_weights: (N,) relative chance of each image, or None for every image once.
            first: batches of the epoch that are passed over.
        """
        self.batches.epoch, self.batches.first = epoch, first
        if image_weights is not None and is_rect(self.dataset):
            if not self._warned:
                LOGGER.warning("--image-weights has no effect with --rect: its batches are fixed by the images' shapes")
            self._warned, image_weights = True, None
        self.batches.image_weights = image_weights

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches; InputError where an image that was verified cannot be read any more."""
        for batch in self.loader:
            if isinstance(batch, ImageError):
                raise InputError(f"{batch}; it could be read before: put it back, then go on or start again")
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
    masks: MaskForm | None = None,
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
        masks: how polygons become the batches' masks, if at all.

    Of several processes each gets its part: of every batch where the data set augments, else whole batches.
    """
    num_samples = len(dataset)  # type: ignore[arg-type]
    if shuffle and is_rect(dataset):
        LOGGER.warning("--rect: images come sorted by shape, so they are not shuffled")
        shuffle = False
    batch_size = max(1, min(batch_size, num_samples))
    whole = not getattr(dataset, "augment", False)
    batches = EpochBatches(
        num_samples,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        deal=Deal(rank(), world_size(), whole=whole, group=4 if quad else 1),
    )
    cpus = max(1, available_cpus() // local_world_size())
    workers = min(workers, cpus, batch_size if batch_size > 1 else 0)
    keep_freed_memory()
    options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    loader: DataLoader[Any] = DataLoader(
        BatchReader(QuadDataset(dataset, seed=seed) if quad else dataset),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=partial(collate_read, masks=masks),
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # its own, so that loading leaves the trainer's random numbers alone
        **options,
    )
    return EpochLoader(loader, batches)


def is_rect(dataset: Dataset[Sample]) -> bool:
    """Whether a data set gives each batch a size of its own."""
    return getattr(dataset, "shapes_hw", None) is not None


class BatchReader(Dataset[Sample]):
    """Reads whole batches; an unreadable image comes back as a value.

    As an exception it would cross the border of a worker process as text, its traceback included.
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, keys: list[Key] | NoImages) -> list[Sample] | NoImages | ImageError:
        """The samples of a batch; DataLoader calls this with all of its keys."""
        if isinstance(keys, NoImages):
            samples = self.__getitems__(keys.model)
            return samples if isinstance(samples, ImageError) else NoImages(samples)
        try:
            if isinstance(self.dataset, QuadDataset):
                return self.dataset.__getitems__(keys)
            return [self.dataset[key] for key in keys]
        except ImageError as error:
            return error


class QuadDataset(Dataset[Sample]):
    """Every four samples of a batch as one of twice the side: four in a square, or the first one enlarged.

    Which of the two is drawn from (seed, epoch, position of the first). A group short of four leaves gray.
    """

    def __init__(self, dataset: Dataset[Sample], *, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # asked for while a worker unpickles this object
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """One joined sample for each four keys; DataLoader calls this with a whole batch."""
        return [self.joined(keys[start : start + 4]) for start in range(0, len(keys), 4)]

    def joined(self, keys: Sequence[Key]) -> Sample:
        """The sample made of up to four."""
        epoch, first, *_ = (0, keys[0]) if isinstance(keys[0], int) else keys[0]
        if np.random.default_rng([self.seed, epoch, first, len(keys)]).random() < 0.5:
            return enlarged(self.dataset[keys[0]])
        return tiled([self.dataset[key] for key in keys])


def enlarged(sample: Sample) -> Sample:
    """The sample at twice its side."""
    height, width, channels = sample.image.shape
    image = cv2.resize(sample.image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    polygons = sample.polygons
    if polygons is not None:
        polygons = [[ring * 2 for ring in rings] for rings in polygons]
    semantic_mask = None if sample.semantic_mask is None else sample.semantic_mask.repeat(2, axis=0).repeat(2, axis=1)
    image = image.reshape(2 * height, 2 * width, channels)
    return Sample(image, sample.boxes_xyxy * 2, sample.classes, polygons, semantic_mask, sample.path)


def tiled(samples: Sequence[Sample]) -> Sample:
    """Up to four samples of one size in a square, in reading order."""
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


def start_worker(worker: int) -> None:
    """One thread per worker process, as workers are the parallelism; a Ctrl-C is the main process's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


def collate_read(samples: list[Sample] | NoImages | ImageError, *, masks: MaskForm | None = None) -> Batch | ImageError:
    """What `BatchReader` gives as a batch, an unreadable image as it is."""
    if isinstance(samples, NoImages):
        return collate(samples.model, masks=masks).without_images()
    return samples if isinstance(samples, ImageError) else collate(samples, masks=masks)


def collate(samples: Sequence[Sample], *, masks: MaskForm | None = None) -> Batch:
    """Samples of equal size as one batch, BGR as RGB; pixels stay interleaved, as channels_last networks want them."""
    pixels = torch.empty((len(samples), *samples[0].image.shape), dtype=torch.uint8)  # (B, H, W, C)
    for place, sample in zip(pixels.numpy(), samples, strict=True):
        copy_rgb(place, sample.image)
    maps, labels = [s.semantic_mask for s in samples], [s.label for s in samples]
    originals = [torch.from_numpy(s.original_map) for s in samples if s.original_map is not None]
    return Batch(
        images=pixels.permute(0, 3, 1, 2),
        targets=torch.from_numpy(batch_targets(samples)),
        paths=[s.path for s in samples],
        letterboxes=[s.letterbox for s in samples],
        masks=None if masks is None else masks(samples),
        semantic_masks=None if any(m is None for m in maps) else torch.from_numpy(np.stack(maps)),  # type: ignore[arg-type]
        labels=None if None in labels else torch.tensor(labels, dtype=torch.int64),
        original_maps=originals if len(originals) == len(samples) else None,
    )


def copy_rgb(place: np.ndarray, image: np.ndarray) -> None:
    """Copy an image (H, W, C) into `place`, of the same shape; three channels BGR -> RGB."""
    if image.shape[2] == 3:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=place)
    else:
        place[:] = image


def batch_targets(samples: Sequence[Sample]) -> np.ndarray:
    """(N, 6) float32 rows: position in the batch, class, center x, y, width, height over the image's sides."""
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
