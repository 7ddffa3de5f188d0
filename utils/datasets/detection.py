"""Detection and segmentation data set: training and validation samples of images with boxes or polygons."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
from torch.utils.data import Dataset

from utils.config.hyp import Hyperparameters
from utils.core.types import Sample
from utils.datasets.augment.albumentations import LightPipeline, UserPipeline, is_installed
from utils.datasets.augment.compose import IGNORE, DrawnRegion, Recolor, SourceImage, compose, draw_semantic_mask
from utils.datasets.augment.cutmix import cutmix
from utils.datasets.augment.mosaic import plan_copy_paste, plan_mosaic, plan_mosaic9, plan_single
from utils.datasets.augment.transforms import mixup, random_flips, random_recolor, random_transform
from utils.datasets.cache import ImageCache, build_cache
from utils.datasets.index.image_index import ImageIndex
from utils.imaging.letterbox import compute_rect_shapes, fit_longest_side, fit_size, pad_to, resize
from utils.imaging.read import read_image
from utils.imaging.semantic_files import read_semantic_mask
from utils.ops.boxes import xywh_to_xyxy

EPOCH_REPEAT = 1 << 20  # the n-th repetition of a data set within epoch e has the epoch number e + n * EPOCH_REPEAT
SampleKey = int | tuple[int, int] | tuple[int, int, tuple[int, ...]]  # position; epoch, position; and mosaic pool


class DetectionDataset(Dataset[Sample]):
    """Samples of an `ImageIndex`, augmented or letterboxed.

    Args:
        index: images and labels; sorted by aspect ratio if `rect`.
        imgsz: image size, longer side in pixels.
        hyp: strengths of the augmentations.
        augment: mosaic, affine, colors and flips; False letterboxes each image and keeps its `Letterbox`.
        rect: give each batch the smallest input that fits its images; disables mosaic.
        batch_size: images per batch, for `rect`.
        stride: input sizes are multiples of it.
        pad: extra border of rect batches, in strides.
        seed: of the augmentations; a sample depends only on (seed, epoch, position).
        cache: "ram" or "disk" caches decoded images.
        channels: of the network input.
        fixed_hw: input size instead of a square of `imgsz` (not with `rect`).
        longest: maximum longer side of images read for training; None for `imgsz`.
        mosaic_epochs: number of epochs with mosaic, from the first; None for all.
        original_size: images keep their size (not with `augment`).

    Attributes:
        index: images and labels in the order of the positions.
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
        original_size: bool = False,
    ) -> None:
        aspects = index.sizes_hw[:, 0] / index.sizes_hw[:, 1]
        self.index = index = index.subset(np.argsort(aspects, kind="stable")) if rect else index
        self.imgsz, self.hyp, self.augment, self.seed, self.channels = imgsz, hyp, augment, seed, channels
        self.longest = longest if augment and longest is not None else imgsz
        self.batch_size, self.square_hw = batch_size, fixed_hw or (imgsz, imgsz)
        self.mosaic_epochs, self.original_size = mosaic_epochs, original_size
        self.shapes_hw: np.ndarray | None = None
        if rect:
            self.shapes_hw = compute_rect_shapes(index.sizes_hw, batch_size, imgsz=imgsz, stride=stride, pad=pad)
        self.pipeline: LightPipeline | UserPipeline | None = None
        if augment and hyp.albumentations is not None:
            self.pipeline = UserPipeline(hyp.albumentations)
        elif augment and is_installed():
            self.pipeline = LightPipeline()
        load_sizes_hw = [self.get_loaded_hw(i) for i in range(len(index))] if cache else []
        self.cache = build_cache(
            cache, index.paths, load_sizes_hw, self.load_image, longest=self.longest, channels=channels
        )
        self.mask_cache: ImageCache | None = None
        if index.semantic_masks is not None:
            self.mask_cache = build_cache(
                cache,
                index.semantic_masks,
                index.sizes_hw,
                self.read_mask_file,
                longest=0,
                channels=1,
                label="semantic masks",
            )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Sample of (epoch, position), or of a position in epoch 0; a third entry limits the images of a mosaic."""
        epoch, i, *pool = (0, key) if isinstance(key, int | np.integer) else key
        if not self.augment:
            return self.load_letterboxed(i)
        rng, candidates = np.random.default_rng([self.seed, epoch, i]), np.array(pool[0]) if pool else None
        allow_mosaic = self.mosaic_epochs is None or epoch % EPOCH_REPEAT < self.mosaic_epochs
        return self.load_augmented(i, rng, candidates, allow_mosaic=allow_mosaic)

    def get_input_hw(self, i: int) -> tuple[int, int]:
        """Network input size of image i, pixels."""
        if self.original_size:
            return self.get_loaded_hw(i)
        if self.shapes_hw is None:
            return self.square_hw
        height, width = self.shapes_hw[i // self.batch_size]
        return int(height), int(width)

    def get_loaded_hw(self, i: int) -> tuple[int, int]:
        """Size of image i as it is loaded and cached, pixels."""
        height, width = self.index.sizes_hw[i].tolist()
        return (height, width) if self.original_size else fit_longest_side((height, width), self.longest)

    # -- training -------------------------------------------------------------------------------------------------

    def load_augmented(
        self, i: int, rng: np.random.Generator, pool: np.ndarray | None = None, *, allow_mosaic: bool = True
    ) -> Sample:
        """Training sample of image i: mosaic or single image, random transform, MixUp, CutMix, colors and flips.

        Args:
            pool: positions of candidates for the other images; None for all.
            allow_mosaic: False disables mosaic and MixUp.
        """
        hyp = self.hyp
        recolor = random_recolor(rng, hyp) if self.channels == 3 else None
        effects = [] if self.pipeline is None else self.pipeline.select(rng)
        in_mosaic = self.shapes_hw is None and rng.random() < hyp.mosaic and allow_mosaic
        use_mixup = in_mosaic and rng.random() < hyp.mixup
        use_cutmix = hyp.cutmix > 0 and self.shapes_hw is None and rng.random() < hyp.cutmix
        recolor_last = bool(effects) or use_mixup or use_cutmix  # otherwise while drawing, which is faster
        build = partial(
            self.build_mosaic if in_mosaic else self.build_single, recolor=None if recolor_last else recolor
        )
        sample = build(i, rng, pool)
        if use_mixup:
            sample = mixup(sample, build(self.draw_partners(1, rng, pool)[0], rng, pool), rng)
        if use_cutmix:
            sample = cutmix(sample, build(self.draw_partners(1, rng, pool)[0], rng, pool), rng)
        for effect in effects:
            sample = effect(sample)
        if recolor_last and recolor is not None:
            recolor(sample.image, sample.image)
        return random_flips(sample, rng, hyp)

    def build_single(
        self, i: int, rng: np.random.Generator, pool: np.ndarray | None, recolor: Recolor | None = None
    ) -> Sample:
        """Image i, letterboxed, under a random transform."""
        size_hw = self.get_input_hw(i)
        plan = plan_single(self.get_source(i), size_hw)
        to_output = random_transform(rng, self.hyp, size_hw, size_hw)
        return compose(plan, to_output, size_hw, channels=self.channels, recolor=recolor)

    def build_mosaic(
        self,
        i: int,
        rng: np.random.Generator,
        pool: np.ndarray | None,
        recolor: Recolor | None = None,
        *,
        nine: bool | None = None,
    ) -> Sample:
        """Mosaic of image i and three or eight others (None: at random), under a random transform."""
        hyp, side = self.hyp, self.imgsz
        if nine is None:
            nine = rng.random() < hyp.mosaic9
        members = rng.permutation([i, *self.draw_partners(8 if nine else 3, rng, pool)])
        plan = (plan_mosaic9 if nine else plan_mosaic)([self.get_source(k) for k in members.tolist()], rng, side)
        if hyp.copy_paste and self.index.polygons is not None:
            plan += plan_copy_paste(plan, rng, share=hyp.copy_paste, canvas_width=2 * side)
        to_output = random_transform(rng, hyp, (2 * side, 2 * side), (side, side))
        sample = compose(plan, to_output, (side, side), channels=self.channels, recolor=recolor)
        sample.path = self.index.paths[i]
        return sample

    def draw_partners(self, count: int, rng: np.random.Generator, pool: np.ndarray | None) -> list[int]:
        """Positions of `count` random images."""
        numbers = rng.integers(len(self) if pool is None else len(pool), size=count)
        return [int(k) for k in (numbers if pool is None else pool[numbers])]

    def get_source(self, i: int, longest: int | None = None) -> SourceImage:
        """Image i for a canvas, its longer side `longest` or `imgsz` pixels; its pixels are read later."""
        classes, boxes_xywhn, polygons = self.index.labels(i)
        height, width = self.index.sizes_hw[i].tolist()
        return SourceImage(
            fit_longest_side((height, width), longest or self.imgsz),
            partial(self.load_pixels, i),
            classes,
            xywh_to_xyxy(boxes_xywhn),
            polygons,
            None if self.index.semantic_masks is None else partial(self.load_semantic_mask, i),
            self.index.paths[i],
        )

    def load_pixels(self, i: int, longest: int) -> np.ndarray:
        """Image i with a longer side of at least `longest` pixels, unless the file or `self.longest` is smaller."""
        if self.cache is not None:
            return self.cache.get(i)
        if self.index.windows is not None:
            return self.read_window(i)
        longest = min(longest, self.longest)
        reduce = 2 * longest <= max(self.index.sizes_hw[i].tolist())
        return read_image(self.index.paths[i], channels=self.channels, reduce_to=longest if reduce else None)

    # -- validation -----------------------------------------------------------------------------------------------

    def load_letterboxed(self, i: int) -> Sample:
        """Validation sample of image i, with its `Letterbox`."""
        out_hw = self.get_input_hw(i)
        frame = self.load_image(i) if self.cache is None else self.cache.get(i)
        resized = resize(frame, fit_size(frame.shape[:2], out_hw, scale_up=False), cv2.INTER_LINEAR)
        height, width = self.index.sizes_hw[i].tolist()
        image, letterbox = pad_to(resized, out_hw, original_hw=(height, width))
        scale_wh = np.array([resized.shape[1], resized.shape[0]], np.float32)
        offset_wh = np.array(letterbox.pad_wh, np.float32)
        classes, boxes_xywhn, polygons = self.index.labels(i)
        if polygons is not None:
            polygons = [[ring * scale_wh + offset_wh for ring in rings] for rings in polygons]
        boxes = xywh_to_xyxy(boxes_xywhn) * np.tile(scale_wh, 2) + np.tile(offset_wh, 2)
        sample = Sample(image, boxes, classes.astype(np.int64), polygons, path=self.index.paths[i], letterbox=letterbox)
        if self.index.semantic_masks is not None:
            sample.semantic_mask = np.full(out_hw, IGNORE, np.uint8)
            matrix = np.diag([*scale_wh, 1.0])
            matrix[:2, 2] = offset_wh
            left, top = letterbox.pad_wh
            box = (left, top, left + resized.shape[1], top + resized.shape[0])
            sample.original_mask = self.load_semantic_mask(i)
            draw_semantic_mask(sample.semantic_mask, sample.original_mask, DrawnRegion(matrix, box))
        return sample

    def load_semantic_mask(self, i: int) -> np.ndarray:
        """(H, W) uint8 semantic mask of image i, at the size of the image."""
        values = (self.read_mask_file(i) if self.mask_cache is None else self.mask_cache.get(i))[..., 0]
        return np.array(values) if self.index.id_map is None else cv2.LUT(np.asarray(values), self.index.id_map)

    def read_mask_file(self, i: int) -> np.ndarray:
        """(H, W, 1) semantic mask of image i as in the file, before `id_map`."""
        assert self.index.semantic_masks is not None
        return read_semantic_mask(self.index.semantic_masks[i])[..., None]

    def load_image(self, i: int) -> np.ndarray:
        """Image i from the file, resized so that its longer side is `self.longest`."""
        if self.index.windows is not None:
            frame = self.read_window(i)
        else:
            frame = read_image(
                self.index.paths[i], channels=self.channels, reduce_to=self.longest if self.augment else None
            )
        size_hw = self.get_loaded_hw(i)
        use_area = not self.augment and max(size_hw) < max(frame.shape[:2])
        return resize(frame, size_hw, cv2.INTER_AREA if use_area else cv2.INTER_LINEAR)

    def read_window(self, i: int) -> np.ndarray:
        """Image i, a tile of its file, in its own size."""
        assert self.index.windows is not None
        x1, y1, x2, y2 = self.index.windows[i].tolist()
        return np.ascontiguousarray(read_image(self.index.paths[i], channels=self.channels)[y1:y2, x1:x2])
