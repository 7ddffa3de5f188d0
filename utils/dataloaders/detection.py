"""`LoadImagesAndLabels`: a detection data set with the attributes and items that training scripts expect."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Sample
from utils.dataloaders.files import ANY_CLASS, get_hash, img2label_paths
from utils.datasets.cache import MemoryCache, get_cache_path, get_free_memory, write_array
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.cache import Findings, compute_fingerprint, load_or_build
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import log_messages, verify_images
from utils.datasets.index.listing import list_images
from utils.datasets.loader import POOL
from utils.imaging.read import ImageError
from utils.ops.polygons import join_rings

HELP_URL = "See the page docs/data.md: folders, label files and data YAML of a data set"
NUM_THREADS = min(8, max(1, (os.cpu_count() or 1) - 1))  # that verify images and labels
AUGMENT_KEYS = (
    *("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr"),
    *("mosaic", "mosaic9", "mixup", "cutmix", "copy_paste", "albumentations"),
)  # hyperparameters of the augmentations; a hyp file has others
CACHE_SUFFIX = ".loader.cache"  # of the index; that of train.py, which knows the classes, is another file

Shapes = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]]
Item = tuple[Tensor, Tensor, str, Shapes | None]
Collated = tuple[Tensor, Tensor, tuple[str, ...], tuple[Shapes | None, ...]]


class _TruncatedSizes(DetectionDataset):
    """As YOLOv5 7.0, images are loaded at truncated sizes; others of the project's are rounded."""

    def get_loaded_hw(self, i: int) -> tuple[int, int]:
        height, width = self.index.sizes_hw[i].tolist()
        ratio = self.longest / max(height, width)
        return max(1, int(height * ratio)), max(1, int(width * ratio))


class LoadImagesAndLabels(Dataset[Any]):
    """Items (image, labels, path, shapes) of a detection set, augmented or letterboxed.

    `image` is (3, H, W) uint8 RGB; `labels` (n, 6): 0 (the collate function's place for the image index), class,
    normalized center x, y, width, height; `shapes` ((h0, w0), ((h / h0, w / w0), (pad_w, pad_h))) of a letterboxed
    image, which `scale_boxes(..., shapes[0], shapes[1])` takes, or None for an augmented one.

    Labels are verified once and cached beside the labels folder. Randomness comes from NumPy's global generator, so
    that `init_seeds` and `seed_worker` decide it.

    Args:
        path: folder, list file, glob pattern or image, or a list of them.
        img_size: longer image side, pixels.
        batch_size: images per batch, for `rect`.
        augment: mosaic, affine transforms, colors and flips by `hyp`; False letterboxes.
        hyp: hyperparameters as in a hyp file; those of augmentations are read for every item.
        rect: smallest input of each batch instead of squares; images are sorted by aspect ratio. Not with
            `image_weights`.
        image_weights: `indices` are drawn by weight; other images of a mosaic are drawn from them too.
        cache_images: True or "ram", or "disk".
        single_cls: make every object class 0.
        stride, pad: input sizes of `rect` are multiples of `stride`, with `pad` strides more.
        min_items: leave out images with fewer objects.
        prefix: start of log messages.

    Attributes:
        im_files, img_files, label_files: the files, in the order of the positions.
        labels: (n, 5) class and normalized xywh for each image; a copy.
        segments: normalized outlines (K, 2) for each image, one per object; [] for an image without outlines.
        shapes: (N, 2) width and height of each image.
        indices: position of each item; may be set.
        mosaic: whether items are mosaics, with the probability `hyp["mosaic"]`; may be set.
        n, batch, batch_shapes: images; batch of each image; with `rect`, (h, w) of each batch.
        ims: images cached in memory, or None for each.

    Raises:
        InputError: no usable images, or no labels to augment.
    """

    def __init__(
        self,
        path: Any,
        img_size: int = 640,
        batch_size: int = 16,
        augment: bool = False,
        hyp: Mapping[str, Any] | None = None,
        rect: bool = False,
        image_weights: bool = False,
        cache_images: bool | str | None = False,
        single_cls: bool = False,
        stride: int = 32,
        pad: float = 0.0,
        min_items: int = 0,
        prefix: str = "",
    ) -> None:
        self.path, self.img_size, self.augment, self.hyp, self.stride = path, img_size, augment, hyp, int(stride)
        self.image_weights, self.rect = image_weights, rect and not image_weights
        index, self._findings = load_index(path, prefix)
        if min_items:
            index = index.subset(np.flatnonzero(np.diff(index.offsets) >= min_items))
        if not len(index):
            raise InputError(f"{prefix}{path}: no usable image with at least {min_items} objects. {HELP_URL}")
        if augment and not index.num_objects:
            raise InputError(f"{prefix}{path}: no labels, so there is nothing to train on. {HELP_URL}")
        if single_cls:
            index = replace(index, classes=np.zeros_like(index.classes))
        self._data = _TruncatedSizes(
            index,
            imgsz=img_size,
            hyp=to_hyperparameters(hyp),
            augment=augment,
            rect=self.rect,
            batch_size=batch_size,
            stride=self.stride,
            pad=pad,
            cache=get_cache_kind(cache_images),
        )
        self.mosaic = augment and not self.rect
        self._set_attributes(batch_size)

    def _set_attributes(self, batch_size: int) -> None:
        index = self._data.index
        self.im_files = self.img_files = list(index.paths)
        self.label_files = img2label_paths(self.im_files)
        self.n = len(index)
        self.indices: Sequence[int] = range(self.n)
        rows = np.concatenate([index.classes[:, None], index.boxes_xywhn], axis=1).astype(np.float32)
        self.labels = [rows[a:b] for a, b in itertools.pairwise(index.offsets.tolist())]
        self.shapes = index.sizes_hw[:, ::-1].astype(np.float64)
        self.batch = np.arange(self.n) // batch_size
        self.batch_shapes = self._data.shapes_hw

    @cached_property
    def segments(self) -> list[list[np.ndarray]]:
        polygons = (self._data.index.labels(i)[2] for i in range(self.n))
        return [[join_rings(rings) for rings in outlines or []] for outlines in polygons]

    @cached_property
    def ims(self) -> list[np.ndarray | None]:
        cache = self._data.cache
        return [cache.get(i) if isinstance(cache, MemoryCache) else None for i in range(self.n)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return self._load_item(index)[1]

    def _load_item(self, index: int) -> tuple[Sample, Item]:
        """Sample and item of a position in `indices`."""
        i = int(self.indices[index])
        try:
            sample, shapes = self._load_augmented(i) if self.augment else self._load_letterboxed(i)
        except ImageError as error:  # its two arguments do not survive the way out of a worker process
            raise InputError(str(error)) from error
        return sample, self._to_item(sample, shapes)

    def _load_augmented(self, i: int) -> tuple[Sample, None]:
        rng, pool = self._prepare_augmentation()
        return self._data.load_augmented(i, rng, pool, allow_mosaic=self.mosaic), None

    def _prepare_augmentation(self) -> tuple[np.random.Generator, np.ndarray | None]:
        """Generator of an item, and the candidates for its mosaic if `indices` are weighted."""
        self._data.hyp = to_hyperparameters(self.hyp)
        rng = draw_generator()
        if not self.image_weights:
            return rng, None
        return rng, np.array([self.indices[k] for k in rng.integers(len(self.indices), size=POOL)])

    def _load_letterboxed(self, i: int) -> tuple[Sample, Shapes]:
        """Sample of image i and its shapes; padding is half of the border, which may be a half pixel off the drawn."""
        sample = self._data.load_letterboxed(i)
        fit = sample.letterbox
        assert fit is not None
        (h0, w0), (ratio_w, ratio_h) = fit.original_hw, fit.ratio_wh
        height, width = sample.image.shape[:2]
        pad = (width - round(w0 * ratio_w)) / 2, (height - round(h0 * ratio_h)) / 2
        shift = np.array(pad, np.float32) - fit.pad_wh
        if shift.any():
            sample.boxes_xyxy = sample.boxes_xyxy + np.tile(shift, 2)
            if sample.polygons is not None:
                sample.polygons = [[ring + shift for ring in rings] for rings in sample.polygons]
        return sample, ((h0, w0), ((ratio_h, ratio_w), pad))

    def _to_item(self, sample: Sample, shapes: Shapes | None) -> Item:
        height, width = sample.image.shape[:2]
        low, high = np.split(sample.boxes_xyxy.reshape(-1, 4), 2, axis=1)
        labels = np.zeros((len(sample.classes), 6), np.float32)
        labels[:, 1] = sample.classes
        labels[:, 2:4] = (low + high) / 2 / (width, height)
        labels[:, 4:] = (high - low) / (width, height)
        image = np.ascontiguousarray(sample.image[..., ::-1].transpose(2, 0, 1))  # BGR to RGB, (3, H, W)
        return torch.from_numpy(image), torch.from_numpy(labels), sample.path, shapes

    # -- single images and mosaics -------------------------------------------------------------------------------------

    def load_image(self, i: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Image i as BGR with a longer side of `img_size`, its (h, w) in the file, and its (h, w)."""
        frame = self._data.load_image(i) if self._data.cache is None else self._data.cache.get(i)
        height, width = self._data.index.sizes_hw[i].tolist()
        return frame, (height, width), (frame.shape[0], frame.shape[1])

    def load_mosaic(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Mosaic of four images, transformed: square BGR image, labels (n, 5) class and xyxy in pixels."""
        return self._load_mosaic(index, nine=False)

    def load_mosaic9(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Mosaic of nine images, as `load_mosaic`."""
        return self._load_mosaic(index, nine=True)

    def _load_mosaic(self, index: int, *, nine: bool) -> tuple[np.ndarray, np.ndarray]:
        rng, pool = self._prepare_augmentation()
        sample = self._data.build_mosaic(index, rng, pool, nine=nine)
        return sample.image, np.concatenate([sample.classes[:, None], sample.boxes_xyxy], axis=1).astype(np.float32)

    # -- caches --------------------------------------------------------------------------------------------------------

    def check_cache_ram(self, safety_margin: float = 0.1, prefix: str = "") -> bool:
        """Whether all images fit into the free memory, with a share to spare; warns if not."""
        sizes = map(self._data.get_loaded_hw, range(self.n))
        needed, free = 3 * sum(h * w for h, w in sizes) * (1 + safety_margin), get_free_memory()
        if needed > free:
            LOGGER.warning(
                f"{prefix}{needed / 2**30:.1f} GiB needed to cache images in memory, {free / 2**30:.1f} GiB free"
            )
        return needed <= free

    def cache_images_to_disk(self, i: int) -> None:
        """Write image i, decoded and resized, beside its file, where `cache_images="disk"` finds it."""
        write_array(get_cache_path(self.im_files[i], self.img_size), self.load_image(i)[0])

    def cache_labels(self, path: str | Path | None = None, prefix: str = "") -> dict[str, Any]:
        """The verified labels: for each image [labels (n, 5), (w, h), segments], and `hash`, `results`, `msgs`.

        `results` are the images with a label file, without one, without objects, unusable, and all. The file on disk
        has the project's own format and is written when the data set is built, so `path` and `prefix` are unused.
        """
        sizes = [tuple(size) for size in self.shapes.astype(int).tolist()]
        entries = zip(self.im_files, self.labels, sizes, self.segments, strict=True)
        cache: dict[str, Any] = {file: list(entry) for file, *entry in entries}
        found = self._findings
        labeled, empty = found.images - found.unlabelled, found.backgrounds - found.unlabelled
        cache["results"] = (labeled, found.unlabelled, empty, found.corrupt, found.images + found.corrupt)
        return cache | {"hash": get_hash(self.label_files + self.im_files), "msgs": list(found.messages)}

    # -- batches -------------------------------------------------------------------------------------------------------

    @staticmethod
    def collate_fn(batch: Sequence[Item]) -> Collated:
        """Images (B, 3, H, W), labels (n, 6) with the image index in the first column, paths and shapes."""
        images, labels, paths, shapes = zip(*batch, strict=True)
        return torch.stack(images), number_labels(labels), paths, shapes

    @staticmethod
    def collate_fn4(batch: Sequence[Item]) -> Collated:
        """Each four items as one of twice the size: a 2x2 tiling or the first one enlarged, at random (`--quad`).

        Of an incomplete group the first is enlarged. Paths and shapes are those of the first of each group.
        """
        groups = [batch[start : start + 4] for start in range(0, len(batch), 4)]
        merged = [tile(group) if len(group) == 4 and random.random() < 0.5 else enlarge(group[0]) for group in groups]
        return LoadImagesAndLabels.collate_fn(merged)


def get_cache_kind(value: bool | str | None) -> str | None:
    """ "disk", "ram" for any other value that is true, such as the flag's "val", or None."""
    return "disk" if value == "disk" else "ram" if value else None


def draw_generator() -> np.random.Generator:
    """A generator for one item, seeded by NumPy's global one."""
    return np.random.default_rng(np.random.randint(0, 1 << 31, 4))


def number_labels(labels: Sequence[Tensor]) -> Tensor:
    """(n, 6) labels of all images, the image index in the first column. The tensors are not changed."""
    numbered = torch.cat(list(labels))
    numbered[:, 0] = torch.repeat_interleave(torch.arange(len(labels)), torch.tensor([len(rows) for rows in labels]))
    return numbered


def enlarge(item: Item) -> Item:
    """An item at twice its size; normalized labels do not change."""
    image, *rest = item
    doubled = F.interpolate(image[None].float(), scale_factor=2, mode="bilinear", align_corners=False)[0]
    return (doubled.round().to(image.dtype), *rest)  # type: ignore[return-value]


def tile(items: Sequence[Item]) -> Item:
    """Four items of the same size as one of 2x2, in reading order."""
    images, labels, paths, shapes = zip(*items, strict=True)
    rows = torch.cat(list(labels))
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # x, y, in tiles
    numbers = torch.repeat_interleave(torch.arange(4), torch.tensor([len(label) for label in labels]))
    rows[:, 2:4] += corners[numbers]
    rows[:, 2:] /= 2
    image = torch.cat([torch.cat(images[:2], dim=2), torch.cat(images[2:], dim=2)], dim=1)
    return image, rows, paths[0], shapes[0]


def to_hyperparameters(hyp: Mapping[str, Any] | None) -> Hyperparameters:
    """The strengths of the augmentations; the default ones for missing keys. InputError for invalid values."""
    values = {key: hyp[key] for key in AUGMENT_KEYS if hyp.get(key) is not None} if hyp else {}
    return Hyperparameters.from_dict(values, source="hyp")


def load_index(path: Any, prefix: str = "") -> tuple[ImageIndex, Findings]:
    """Verified images and labels, sorted by path, of classes that no data YAML limits; logs a summary."""
    entries = [Path(entry) for entry in (path if isinstance(path, list | tuple) else [path])]
    images = sorted(image for entry in entries for image in list_images(entry, Path.cwd()))
    if not images:
        raise InputError(f"{prefix}{path}: no images found. {HELP_URL}")
    labels = img2label_paths(images)
    first = entries[0] if len(entries) == 1 and entries[0].is_file() else Path(labels[0]).parent
    cache_file = first.with_name(f"{first.stem if first.is_file() else first.name}{CACHE_SUFFIX}")
    key = compute_fingerprint(itertools.chain(images, labels), ANY_CLASS)
    index, findings = load_or_build(
        cache_file, key, partial(verify_images, images, labels, ANY_CLASS, "images", NUM_THREADS)
    )
    log_messages(findings.messages, verbose=False)
    LOGGER.info(
        f"{prefix}{findings.images} images, {findings.backgrounds} backgrounds, {findings.corrupt} corrupt, "
        f"{index.num_objects} objects"
    )
    return index, findings
