"""Data loader of instance segmentation: detection batches with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from utils.core.distributed import local_main_first
from utils.core.errors import InputError
from utils.core.ranks import RANK
from utils.core.types import Polygons
from utils.dataloaders.detection import LoadImagesAndLabels, Shapes, number_labels
from utils.dataloaders.loaders import build_loader, check_shuffle
from utils.ops.masks import ObjectMasks, rasterize
from utils.ops.polygons import join_rings

__all__ = [
    "RANK", "LoadImagesAndLabelsAndMasks", "create_dataloader", "polygon2mask", "polygons2masks",
    "polygons2masks_overlap",
]  # fmt: skip

MaskItem = tuple[Tensor, Tensor, str, Shapes | None, Tensor]
MaskBatch = tuple[Tensor, Tensor, tuple[str, ...], tuple[Shapes | None, ...], Tensor]


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
    mask_downsample_ratio: int = 1,
    overlap_mask: bool = False,
) -> tuple[DataLoader[Any], LoadImagesAndLabelsAndMasks]:
    """The loader and the data set of a split: batches (images, targets, paths, shapes, masks).

    Args:
        mask_downsample_ratio, overlap_mask: as in `LoadImagesAndLabelsAndMasks`.
        others: as in `utils.dataloaders.create_dataloader`.

    Raises:
        InputError: as `LoadImagesAndLabels`, or `quad`, which has no masks.
    """
    if quad:
        raise InputError("quad: not available with masks; set it to False")
    shuffle = check_shuffle(shuffle, rect)
    with local_main_first():
        dataset = LoadImagesAndLabelsAndMasks(
            path,
            imgsz,
            batch_size,
            augment,
            hyp,
            rect,
            image_weights,
            cache,
            single_cls,
            stride,
            pad,
            prefix=prefix,
            downsample_ratio=mask_downsample_ratio,
            overlap=overlap_mask,
        )
    collate = LoadImagesAndLabelsAndMasks.collate_fn
    loader = build_loader(dataset, batch_size, rank, workers, shuffle, collate, reuse_workers=not image_weights)
    return loader, dataset


class LoadImagesAndLabelsAndMasks(LoadImagesAndLabels):
    """Items (image, labels, path, shapes, masks); see `LoadImagesAndLabels` for the first four.

    `masks` has a plane per object, (n, H / ratio, W / ratio) uint8 in 0/1; or with `overlap` one index map
    (1, H / ratio, W / ratio) of the number of the label row, from 1, that is visible, 0 for background: small objects
    are in front of large ones, and the labels are sorted by area, the largest first.

    Args:
        downsample_ratio: image pixels per mask pixel, along each axis.
        overlap: one index map instead of a plane per object.
        others: as in `LoadImagesAndLabels`.
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
        pad: float = 0,
        min_items: int = 0,
        prefix: str = "",
        downsample_ratio: int = 1,
        overlap: bool = False,
    ) -> None:
        super().__init__(
            path=path,
            img_size=img_size,
            batch_size=batch_size,
            augment=augment,
            hyp=hyp,
            rect=rect,
            image_weights=image_weights,
            cache_images=cache_images,
            single_cls=single_cls,
            stride=stride,
            pad=pad,
            min_items=min_items,
            prefix=prefix,
        )
        self.downsample_ratio, self.overlap = downsample_ratio, overlap

    def __getitem__(self, index: int) -> MaskItem:
        sample, (image, labels, path, shapes) = self._load_item(index)
        size_hw = (int(image.shape[1]), int(image.shape[2]))
        masks = rasterize(_get_outlines(sample.polygons, sample.boxes_xyxy), size_hw, self.downsample_ratio)
        if not self.overlap:
            return image, labels, path, shapes, torch.from_numpy(masks.dense().astype(np.uint8))
        index_map, order = _draw_sorted(masks)
        return image, labels[torch.from_numpy(order)], path, shapes, torch.from_numpy(index_map)[None]

    def load_mosaic(self, index: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:  # type: ignore[override]
        """Mosaic of four images: image, labels (n, 5) class and xyxy in pixels, outlines (K, 2) in pixels."""
        rng, pool = self._prepare_augmentation()
        sample = self._data.build_mosaic(index, rng, pool, nine=False)
        rows = np.concatenate([sample.classes[:, None], sample.boxes_xyxy], axis=1).astype(np.float32)
        outlines = _get_outlines(sample.polygons, sample.boxes_xyxy)
        return sample.image, rows, [join_rings(rings) for rings in outlines]

    @staticmethod
    def collate_fn(batch: Sequence[MaskItem]) -> MaskBatch:  # type: ignore[override]
        """Images, labels with the image index, paths, shapes, and masks: (n, h, w), or index maps (B, h, w)."""
        images, labels, paths, shapes, masks = zip(*batch, strict=True)
        dtype = max((mask.dtype for mask in masks), key=lambda kind: kind.itemsize)
        return torch.stack(images), number_labels(labels), paths, shapes, torch.cat([mask.to(dtype) for mask in masks])


def polygon2mask(
    img_size: Sequence[int], polygons: Sequence[np.ndarray], color: int = 1, downsample_ratio: int = 1
) -> np.ndarray:
    """(h / ratio, w / ratio) uint8 mask of one object with the value `color`.

    Args:
        img_size: (h, w).
        polygons: outlines of the object in pixels, each (K, 2) or flat.
    """
    masks = rasterize([[_to_ring(polygon) for polygon in polygons]], (img_size[0], img_size[1]), downsample_ratio)
    return masks.dense()[0].astype(np.uint8) * np.uint8(color)


def polygons2masks(
    img_size: Sequence[int], polygons: Sequence[np.ndarray], color: int, downsample_ratio: int = 1
) -> np.ndarray:
    """(n, h / ratio, w / ratio) uint8 masks with the value `color` of n objects, each an outline (K, 2) or flat."""
    rings = [[_to_ring(polygon)] for polygon in polygons]
    return rasterize(rings, (img_size[0], img_size[1]), downsample_ratio).dense().astype(np.uint8) * np.uint8(color)


def polygons2masks_overlap(
    img_size: Sequence[int], segments: Sequence[np.ndarray], downsample_ratio: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Index map (h / ratio, w / ratio) of n outlines, and their order (n,) by area, the largest first.

    The map has k + 1 where the object order[k] is visible, small objects in front of large ones, and 0 for background;
    it is uint8, or int32 for more than 255 objects.
    """
    rings = [[_to_ring(segment)] for segment in segments]
    return _draw_sorted(rasterize(rings, (img_size[0], img_size[1]), downsample_ratio))


def _draw_sorted(masks: ObjectMasks) -> tuple[np.ndarray, np.ndarray]:
    """Index map and order of objects, see `polygons2masks_overlap`."""
    order = np.argsort(-masks.areas, kind="stable")
    index_map = masks.select(order).index_map()
    return index_map.astype(np.uint8 if len(order) <= np.iinfo(np.uint8).max else np.int32), order


def _to_ring(points: np.ndarray) -> np.ndarray:
    return np.asarray(points, np.float64).reshape(-1, 2)


def _get_outlines(polygons: Polygons | None, boxes_xyxy: np.ndarray) -> Polygons:
    """Rings of each object; the corners of its box if the data set has boxes only."""
    if polygons is not None:
        return polygons
    return [[ring] for ring in boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)]
