"""Training and validation samples of images with semantic masks: a random size, a random crop, random colors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from utils.config.hyp import Hyperparameters
from utils.core.types import Sample
from utils.datasets.augment.albumentations import UserPipeline
from utils.datasets.augment.compose import Placement, compose
from utils.datasets.augment.cutmix import cutmix
from utils.datasets.augment.mosaic import mosaic_plan
from utils.datasets.augment.sample import random_flips, random_transform
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.image_index import ImageIndex

STEP = 32  # pixels between the sizes that are drawn
LUMA_BGR = np.array([0.114, 0.587, 0.299])  # ITU-R BT.601
TO_YIQ = np.array([LUMA_BGR, [-0.3213, -0.2746, 0.5959], [0.3112, -0.5227, 0.2115]])  # from BGR; NTSC of 1953


@dataclass(frozen=True)
class SemanticAugmentation:
    """Sizes and strengths; how they are used says `SemanticDataset`.

    Attributes:
        base: longer side that an image has most often, about, pixels.
        crop_hw: size of every sample.
        low, high: smallest and largest longer side over `base`.
        std: spread of the sizes around their center, in steps of 32 pixels.
        brightness, contrast, saturation: gains are uniform in 1 +- these.
        hue: turns are uniform in +- this part of the color circle.
    """

    base: int
    crop_hw: tuple[int, int]
    low: float = 0.75
    high: float = 1.5
    std: float = 35.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.0

    def __post_init__(self) -> None:
        if self.base < 1 or min(self.crop_hw) < 1:
            raise ValueError(f"base {self.base} and crop {self.crop_hw} must be positive")
        if not 0 < self.low <= self.high or self.std <= 0:
            raise ValueError(f"0 < low <= high and std > 0 expected, got {self.low}, {self.high} and {self.std}")

    @classmethod
    def for_images(cls, sizes_hw: np.ndarray, imgsz: int, **changes: Any) -> SemanticAugmentation:
        """Crops of longer side `imgsz` in the shape that most images have, rounded up to multiples of 32.

        A square crop of wide images would be a third border; where some are wide and others high it is square.

        Args:
            sizes_hw: (N, 2) of the images.
            imgsz: pixels.
            changes: other attributes.
        """
        aspects = np.sort(sizes_hw[:, 0] / sizes_hw[:, 1])
        lower, middle, upper = (float(aspects[int(share * (len(aspects) - 1))]) for share in (0.1, 0.5, 0.9))
        sides = (1.0, 1.0) if lower < 1 < upper else (min(middle, 1.0), min(1 / middle, 1.0))
        height, width = (STEP * math.ceil(side * imgsz / STEP) for side in sides)
        return cls(imgsz, (height, width), **changes)

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) longer sides in pixels and (k,) their chances: a Gaussian four steps below `base`, cut off."""
        steps = np.arange(math.ceil(self.base * self.low / STEP), math.ceil(self.base * self.high / STEP) + 1)
        center = math.ceil(self.base / STEP) - 4
        weights = np.exp(-0.5 * ((steps - center) / self.std) ** 2)
        return steps * STEP, weights / weights.sum()


class SemanticDataset(DetectionDataset):
    """Samples of an `ImageIndex` with semantic masks; boxes and polygons, where it has any, move along.

    In training each image gets a random longer side, is cropped at random (a border of gray, which is ignored, fills
    what is missing right and below), recolored and flipped by the chances `fliplr` and `flipud` of the recipe. With
    `mosaic` four images, each of a size drawn like that, are put together by the recipe's chance `mosaic`, and
    moved by its affine numbers. For validation an image is fitted as for detection and keeps its own semantic mask.

    Args:
        index: images and semantic masks.
        imgsz: longer side of the network input in validation.
        hyp: chances named above; its Albumentations pipeline runs last but one, before the flips.
        augment: training samples.
        augmentation: sizes and strengths; None for those that suit the images.
        mosaic: see above.
        options: as of `DetectionDataset`.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        imgsz: int,
        hyp: Hyperparameters,
        augment: bool,
        augmentation: SemanticAugmentation | None = None,
        mosaic: bool = False,
        **options: Any,
    ) -> None:
        self.augmentation = augmentation or SemanticAugmentation.for_images(index.sizes_hw, imgsz)
        self.with_mosaic = mosaic
        self.longer_sides, self.chances = self.augmentation.sizes()
        longest = min(int(self.longer_sides[-1]), int(index.sizes_hw.max()))
        super().__init__(index, imgsz=imgsz, hyp=hyp, augment=augment, longest=longest, **options)
        self.pipeline = None if hyp.albumentations is None or not augment else UserPipeline(hyp.albumentations)

    def augmented(
        self, i: int, rng: np.random.Generator, pool: np.ndarray | None = None, *, mosaics: bool = True
    ) -> Sample:
        """Image i, or a mosaic around it, as in training.

        Args:
            pool: positions that the other images of a mosaic are drawn from; None for all.
            mosaics: False gives no mosaic.
        """
        in_mosaic = self.with_mosaic and rng.random() < self.hyp.mosaic and mosaics
        sample = self.mosaic_crop(i, rng, pool) if in_mosaic else self.crop(i, rng)
        if self.hyp.cutmix > 0 and rng.random() < self.hyp.cutmix:
            sample = cutmix(sample, self.crop(self.partners(1, rng, pool)[0], rng), rng)
        matrix = draw_colors(rng, self.augmentation, sample.image) if self.channels == 3 else None
        if matrix is not None:
            cv2.transform(sample.image, matrix, dst=sample.image)
        for effect in [] if self.pipeline is None else self.pipeline.pick(rng):
            sample = effect(sample)
        return random_flips(sample, rng, self.hyp)

    def crop(self, i: int, rng: np.random.Generator) -> Sample:
        """A random part of image i at a random size."""
        out_hw = self.augmentation.crop_hw
        image = self.image(i, self.draw_side(rng))
        height, width = image.size_hw
        left, top = (
            int(rng.integers(max(have - want, 0) + 1)) for have, want in ((width, out_hw[1]), (height, out_hw[0]))
        )
        placed = np.array([[width, 0.0, -left], [0.0, height, -top], [0.0, 0.0, 1.0]])
        return compose([Placement(image, placed)], np.eye(3), out_hw, channels=self.channels)

    def mosaic_crop(self, i: int, rng: np.random.Generator, pool: np.ndarray | None) -> Sample:
        """Image i with three others, each of a random size, under the recipe's random transform."""
        side = self.augmentation.base
        members = rng.permutation([i, *self.partners(3, rng, pool)]).tolist()
        plan = mosaic_plan([self.image(k, self.draw_side(rng)) for k in members], rng, side)
        to_output = random_transform(rng, self.hyp, (2 * side, 2 * side), self.augmentation.crop_hw)
        sample = compose(plan, to_output, self.augmentation.crop_hw, channels=self.channels)
        sample.path = self.index.paths[i]
        return sample

    def draw_side(self, rng: np.random.Generator) -> int:
        """A random longer side, pixels."""
        return int(rng.choice(self.longer_sides, p=self.chances))


def draw_colors(rng: np.random.Generator, strengths: SemanticAugmentation, image: np.ndarray) -> np.ndarray | None:
    """(3, 4) affine map of BGR colors: brightness, contrast, saturation and hue in random order; None for no change.

    Each is linear, so all four together cost one pass over the image: a gain; a gain around the image's mean luma;
    a gain around each pixel's luma; a turn around the gray axis in YIQ, which keeps luma. Values are cut off at 0 and
    255 once, at the end.

    Args:
        image: (H, W, 3) uint8 BGR, which only its mean is taken from.
    """
    gains = 1 + rng.uniform(-1, 1, 3) * (strengths.brightness, strengths.contrast, strengths.saturation)
    turn = 2 * math.pi * strengths.hue * rng.uniform(-1, 1)
    order = rng.permutation(4)
    if (gains == 1).all() and turn == 0:
        return None
    mean = float(LUMA_BGR @ cv2.mean(image)[:3])
    saturate = gains[2] * np.eye(3) + (1 - gains[2]) * LUMA_BGR
    linear = (gains[0] * np.eye(3), gains[1] * np.eye(3), saturate, turn_hue(turn))
    matrix, offset = np.eye(3), np.zeros(3)
    for number in order.tolist():
        matrix, offset = linear[number] @ matrix, linear[number] @ offset
        if number == 0:
            mean *= gains[0]
        elif number == 1:  # the other two keep the mean luma
            offset = offset + (1 - gains[1]) * mean
    return np.concatenate([matrix, offset[:, None]], axis=1)


def turn_hue(angle: float) -> np.ndarray:
    """(3, 3) turn of BGR colors around the gray axis by an angle in radians, from red towards green; luma stays."""
    cos, sin = math.cos(angle), math.sin(angle)
    turned = np.array([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]])
    return np.linalg.inv(TO_YIQ) @ turned @ TO_YIQ
