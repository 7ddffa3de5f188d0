"""Training and validation samples of images with boxes: what the loader asks for, one image or mosaic at a time."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
from torch.utils.data import Dataset

from utils.config.hyp import Hyperparameters
from utils.core.types import Sample
from utils.datasets.augment.albumentations import LightPipeline, UserPipeline, is_installed
from utils.datasets.augment.compose import IGNORE, Drawn, Image, Recolor, compose, draw_map
from utils.datasets.augment.cutmix import cutmix
from utils.datasets.augment.mosaic import mosaic9_plan, mosaic_plan, paste_plan, single_plan
from utils.datasets.augment.sample import draw_recoloring, mixup, random_flips, random_transform
from utils.datasets.cache import ImageCache, build_cache
from utils.datasets.index.image_index import ImageIndex
from utils.imaging.letterbox import fitted_size, load_size, pad_to, rect_shapes, resize
from utils.imaging.read import read_image
from utils.imaging.semantic_files import read_semantic_mask

ROUND = 1 << 20  # a set that is gone through again within epoch e is asked for epoch e + ROUND, e + 2 ROUND, ...
Key = int | tuple[int, int] | tuple[int, int, tuple[int, ...]]


class DetectionDataset(Dataset[Sample]):
    """Samples of an `ImageIndex`, augmented or just fitted into the network input.

    Args:
        index: images and labels; with `rect` the data set holds them sorted by height over width.
        imgsz: longer side of the network input.
        hyp: strengths of the augmentations.
        augment: mosaic, affine, colors and flips; False fits each image and keeps its `Letterbox`.
        rect: give each batch the smallest input that fits its images; no mosaic.
        batch_size: images that share an input size with `rect`.
        stride: input sizes are multiples of it.
        pad: extra border of rect batches, in strides.
        seed: of the augmentations; a sample depends on (seed, epoch, position) and nothing else.
        cache: "ram" or "disk" keeps decoded images.
        channels: of the network input.
        fixed_hw: fit every image into this size instead of a square of `imgsz` (not with `rect`).
        longest: longer side at which images are read for training at most; None for `imgsz`.
        mosaic_epochs: epochs with mosaics, the first ones; None for all.

    Attributes:
        index: the images in the order of the positions.
        order: (N,) position of each of them in the index that was given.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        imgsz: int,
        hyp: Hyperparameters,
        augment: bool,
        rect: bool = False,
        batch_size: int = 16,
        stride: int = 32,
        pad: float = 0.0,
        seed: int = 0,
        cache: str | None = None,
        channels: int = 3,
        fixed_hw: tuple[int, int] | None = None,
        longest: int | None = None,
        mosaic_epochs: int | None = None,
    ) -> None:
        aspects = index.sizes_hw[:, 0] / index.sizes_hw[:, 1]
        self.order = np.argsort(aspects, kind="stable") if rect else np.arange(len(index))
        self.index = index = index.subset(self.order) if rect else index
        self.imgsz, self.hyp, self.augment, self.seed, self.channels = imgsz, hyp, augment, seed, channels
        self.longest = longest if augment and longest is not None else imgsz
        self.batch_size, self.square_hw = batch_size, fixed_hw or (imgsz, imgsz)
        self.mosaic_epochs = mosaic_epochs
        self.shapes_hw: np.ndarray | None = None
        if rect:
            self.shapes_hw = rect_shapes(index.sizes_hw, batch_size, imgsz=imgsz, stride=stride, pad=pad)
        self.pipeline = build_pipeline(hyp) if augment else None
        self.cache = build_cache(
            cache, index.paths, index.sizes_hw, self.load_file, longest=self.longest, channels=channels
        )
        self.map_cache: ImageCache | None = None
        if index.semantic_masks is not None:
            self.map_cache = build_cache(
                cache,
                index.semantic_masks,
                index.sizes_hw,
                self.load_map,
                longest=0,
                channels=1,
                as_is=True,
                what="semantic masks",
            )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> Sample:
        """Sample of (epoch, position) or of a position in epoch 0; a third entry names the partners of a mosaic."""
        epoch, i, *pool = (0, key) if isinstance(key, int | np.integer) else key
        if not self.augment:
            return self.fitted(i)
        rng, partners = np.random.default_rng([self.seed, epoch, i]), np.array(pool[0]) if pool else None
        closed = self.mosaic_epochs is not None and epoch % ROUND >= self.mosaic_epochs
        return self.augmented(i, rng, partners, mosaics=not closed)

    def input_hw(self, i: int) -> tuple[int, int]:
        """Network input size of image i, pixels."""
        if self.shapes_hw is None:
            return self.square_hw
        height, width = self.shapes_hw[i // self.batch_size]
        return int(height), int(width)

    # -- training -------------------------------------------------------------------------------------------------

    def augmented(
        self, i: int, rng: np.random.Generator, pool: np.ndarray | None = None, *, mosaics: bool = True
    ) -> Sample:
        """Image i in a mosaic or alone, transformed, perhaps mixed with another such, recolored, flipped.

        Args:
            pool: positions that the other images of a mosaic are drawn from; None for all.
            mosaics: False gives no mosaic, and nothing that is done to mosaics only.
        """
        hyp = self.hyp
        recolor = draw_recoloring(rng, hyp) if self.channels == 3 else None
        effects = [] if self.pipeline is None else self.pipeline.pick(rng)
        in_mosaic = self.shapes_hw is None and rng.random() < hyp.mosaic and mosaics
        blended = in_mosaic and rng.random() < hyp.mixup
        cut = hyp.cutmix > 0 and self.shapes_hw is None and rng.random() < hyp.cutmix
        in_order = (
            bool(effects) or blended or cut
        )  # else colors may change while the images are drawn, which is less work
        draw = partial(self.mosaic if in_mosaic else self.single, recolor=None if in_order else recolor)
        sample = draw(i, rng, pool)
        if blended:
            sample = mixup(sample, draw(self.partners(1, rng, pool)[0], rng, pool), rng)
        if cut:
            sample = cutmix(sample, draw(self.partners(1, rng, pool)[0], rng, pool), rng)
        for effect in effects:
            sample = effect(sample)
        if in_order and recolor is not None:
            recolor(sample.image, sample.image)
        return random_flips(sample, rng, hyp)

    def single(
        self, i: int, rng: np.random.Generator, pool: np.ndarray | None, recolor: Recolor | None = None
    ) -> Sample:
        """Image i alone, fitted into the input, under a random transform."""
        size_hw = self.input_hw(i)
        plan = single_plan(self.image(i), size_hw)
        to_output = random_transform(rng, self.hyp, size_hw, size_hw)
        return compose(plan, to_output, size_hw, channels=self.channels, recolor=recolor)

    def mosaic(
        self, i: int, rng: np.random.Generator, pool: np.ndarray | None, recolor: Recolor | None = None
    ) -> Sample:
        """Image i with three or eight others, under one random transform."""
        hyp, side = self.hyp, self.imgsz
        nine = rng.random() < hyp.mosaic9
        members = rng.permutation([i, *self.partners(8 if nine else 3, rng, pool)])
        plan = (mosaic9_plan if nine else mosaic_plan)([self.image(k) for k in members.tolist()], rng, side)
        if hyp.copy_paste and self.index.polygons is not None:
            plan += paste_plan(plan, rng, share=hyp.copy_paste, canvas_width=2 * side)
        to_output = random_transform(rng, hyp, (2 * side, 2 * side), (side, side))
        sample = compose(plan, to_output, (side, side), channels=self.channels, recolor=recolor)
        sample.path = self.index.paths[i]
        return sample

    def partners(self, count: int, rng: np.random.Generator, pool: np.ndarray | None) -> list[int]:
        """Positions of `count` random images."""
        drawn = rng.integers(len(self) if pool is None else len(pool), size=count)
        return [int(k) for k in (drawn if pool is None else pool[drawn])]

    def image(self, i: int, longest: int | None = None) -> Image:
        """Image i for placing on a canvas, its longer side `longest` or `imgsz` pixels; nothing is read yet."""
        classes, boxes_xywhn, polygons = self.index.labels(i)
        height, width = self.index.sizes_hw[i].tolist()
        return Image(
            load_size((height, width), longest or self.imgsz),
            partial(self.read, i),
            classes,
            corners_of(boxes_xywhn),
            polygons,
            None if self.index.semantic_masks is None else partial(self.semantic_mask, i),
            self.index.paths[i],
        )

    def read(self, i: int, wanted: int) -> np.ndarray:
        """Image i with a longer side of at least `wanted` pixels, as far as there is need and detail."""
        if self.cache is not None:
            return self.cache.get(i)
        wanted = min(wanted, self.longest)
        shrinks = 2 * wanted <= max(self.index.sizes_hw[i].tolist())
        return read_image(self.index.paths[i], channels=self.channels, reduce_to=wanted if shrinks else None)

    # -- validation -----------------------------------------------------------------------------------------------

    def fitted(self, i: int) -> Sample:
        """Image i as it is validated: longer side `imgsz`, centered on gray, with the way back."""
        out_hw = self.input_hw(i)
        frame = self.load_file(i) if self.cache is None else self.cache.get(i)
        inner = resize(frame, fitted_size(frame.shape[:2], out_hw, scale_up=False), cv2.INTER_LINEAR)
        height, width = (int(side) for side in self.index.sizes_hw[i])
        image, fit = pad_to(inner, out_hw, original_hw=(height, width))
        scale_wh, offset_wh = np.array([inner.shape[1], inner.shape[0]], np.float32), np.array(fit.pad_wh, np.float32)
        classes, boxes_xywhn, polygons = self.index.labels(i)
        if polygons is not None:
            polygons = [[ring * scale_wh + offset_wh for ring in rings] for rings in polygons]
        boxes = corners_of(boxes_xywhn) * np.tile(scale_wh, 2) + np.tile(offset_wh, 2)
        sample = Sample(image, boxes, classes.astype(np.int64), polygons, path=self.index.paths[i], letterbox=fit)
        if self.index.semantic_masks is not None:
            sample.semantic_mask = np.full(out_hw, IGNORE, np.uint8)
            matrix = np.diag([*scale_wh, 1.0])
            matrix[:2, 2] = offset_wh
            box = (*fit.pad_wh, fit.pad_wh[0] + inner.shape[1], fit.pad_wh[1] + inner.shape[0])
            sample.original_map = self.semantic_mask(i)
            draw_map(sample.semantic_mask, sample.original_map, Drawn(matrix, box))
        return sample

    def semantic_mask(self, i: int) -> np.ndarray:
        """(H, W) uint8 semantic mask of image i, of the image's size."""
        values = (self.load_map(i) if self.map_cache is None else self.map_cache.get(i))[..., 0]
        return np.array(values) if self.index.id_map is None else cv2.LUT(np.asarray(values), self.index.id_map)

    def load_map(self, i: int) -> np.ndarray:
        """(H, W, 1) semantic mask of image i as in its file."""
        assert self.index.semantic_masks is not None
        return read_semantic_mask(self.index.semantic_masks[i])[..., None]

    def load_file(self, i: int) -> np.ndarray:
        """Image i from its file, its longer side `longest`."""
        frame = read_image(
            self.index.paths[i], channels=self.channels, reduce_to=self.longest if self.augment else None
        )
        size_hw = load_size((int(self.index.sizes_hw[i, 0]), int(self.index.sizes_hw[i, 1])), self.longest)
        smooth = not self.augment and max(size_hw) < max(frame.shape[:2])
        return resize(frame, size_hw, cv2.INTER_AREA if smooth else cv2.INTER_LINEAR)


def build_pipeline(hyp: Hyperparameters) -> LightPipeline | UserPipeline | None:
    """The hyp file's pipeline, else the light default set where Albumentations is installed."""
    if hyp.albumentations is not None:
        return UserPipeline(hyp.albumentations)
    return LightPipeline() if is_installed() else None


def corners_of(boxes_xywh: np.ndarray) -> np.ndarray:
    """(n, 4) corners of boxes given by center and size, in the same unit."""
    half = boxes_xywh[:, 2:] / 2
    return np.concatenate([boxes_xywh[:, :2] - half, boxes_xywh[:, :2] + half], axis=1)
