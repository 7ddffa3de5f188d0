"""Semantic segmentation data set: training and validation samples of images with semantic masks."""

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
from utils.datasets.augment.mosaic import plan_mosaic
from utils.datasets.augment.transforms import random_flips, random_transform
from utils.datasets.classification import LUMA_BGR
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.image_index import ImageIndex

STEP = 32  # pixels between random sizes
TO_YIQ = np.array([LUMA_BGR, [-0.3213, -0.2746, 0.5959], [0.3112, -0.5227, 0.2115]])  # from BGR; NTSC of 1953


@dataclass(frozen=True)
class SemanticAugmentation:
    """Random sizes and color jitter of `SemanticDataset`.

    Attributes:
        base: approximate mode of the longer side, pixels.
        crop_hw: size of every sample.
        low, high: minimum and maximum longer side over `base`.
        std: standard deviation of the longer side, in steps of 32 pixels.
        brightness, contrast, saturation: gains are uniform in 1 +- these.
        hue: rotation is uniform in +- this fraction of the color circle.
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
        if not 0 < self.low <= self.high or self.std <= 0:
            raise ValueError(f"0 < low <= high and std > 0 required, got {self.low}, {self.high} and {self.std}")

    @classmethod
    def from_images(cls, sizes_hw: np.ndarray, imgsz: int, **changes: Any) -> SemanticAugmentation:
        """Crops with a longer side of `imgsz` and the median aspect ratio of the images, in multiples of 32 pixels.

        A square crop of wide images would be one third border. If some images are wide and others tall, crops are
        square.

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

    def compute_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) longer sides in pixels and (k,) probabilities: a truncated Gaussian around four steps below `base`."""
        steps = np.arange(math.ceil(self.base * self.low / STEP), math.ceil(self.base * self.high / STEP) + 1)
        center = math.ceil(self.base / STEP) - 4
        weights = np.exp(-0.5 * ((steps - center) / self.std) ** 2)
        return steps * STEP, weights / weights.sum()


class SemanticDataset(DetectionDataset):
    """Samples of an `ImageIndex` with semantic masks, and with its boxes and polygons if it has any.

    A training image is resized to a random longer side, cropped at random (padded right and below with gray, which is
    ignored), recolored, and flipped with the probabilities `fliplr` and `flipud`. If `mosaic`, four images of random
    sizes are combined with the probability `mosaic` of the hyperparameters and transformed by their random affine.
    Validation images are letterboxed as for detection and keep their original semantic masks.

    Args:
        index: images and semantic masks.
        imgsz: image size in validation, longer side in pixels.
        hyp: probabilities named above; its Albumentations pipeline runs before the flips.
        augment: training samples.
        augmentation: random sizes and color jitter; None derives them from the images.
        mosaic: see above.
        options: see `DetectionDataset`.
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
        self.augmentation = augmentation or SemanticAugmentation.from_images(index.sizes_hw, imgsz)
        self.with_mosaic = mosaic
        self.longer_sides, self.probabilities = self.augmentation.compute_sizes()
        longest = min(int(self.longer_sides[-1]), int(index.sizes_hw.max()))
        super().__init__(index, imgsz=imgsz, hyp=hyp, augment=augment, longest=longest, **options)
        self.pipeline = None if hyp.albumentations is None or not augment else UserPipeline(hyp.albumentations)

    def load_augmented(
        self, i: int, rng: np.random.Generator, pool: np.ndarray | None = None, *, allow_mosaic: bool = True
    ) -> Sample:
        """Training sample of image i, cropped or in a mosaic.

        Args:
            pool: positions of candidates for the other images of a mosaic; None for all.
            allow_mosaic: False disables mosaic.
        """
        in_mosaic = self.with_mosaic and rng.random() < self.hyp.mosaic and allow_mosaic
        sample = self.build_mosaic_crop(i, rng, pool) if in_mosaic else self.build_crop(i, rng)
        if self.hyp.cutmix > 0 and rng.random() < self.hyp.cutmix:
            sample = cutmix(sample, self.build_crop(self.draw_partners(1, rng, pool)[0], rng), rng)
        if self.channels == 3:
            matrix = random_color_matrix(rng, self.augmentation, sample.image)
            cv2.transform(sample.image, matrix, dst=sample.image)
        for effect in [] if self.pipeline is None else self.pipeline.select(rng):
            sample = effect(sample)
        return random_flips(sample, rng, self.hyp)

    def build_crop(self, i: int, rng: np.random.Generator) -> Sample:
        """A random crop of image i at a random size."""
        out_hw = self.augmentation.crop_hw
        image = self.get_source(i, self.draw_side(rng))
        height, width = image.size_hw
        left, top = (int(rng.integers(max(excess, 0) + 1)) for excess in (width - out_hw[1], height - out_hw[0]))
        to_canvas = np.array([[width, 0.0, -left], [0.0, height, -top], [0.0, 0.0, 1.0]])
        return compose([Placement(image, to_canvas)], np.eye(3), out_hw, channels=self.channels)

    def build_mosaic_crop(self, i: int, rng: np.random.Generator, pool: np.ndarray | None) -> Sample:
        """Mosaic of image i and three others, each at a random size, under a random transform."""
        side = self.augmentation.base
        members = rng.permutation([i, *self.draw_partners(3, rng, pool)]).tolist()
        plan = plan_mosaic([self.get_source(k, self.draw_side(rng)) for k in members], rng, side)
        to_output = random_transform(rng, self.hyp, (2 * side, 2 * side), self.augmentation.crop_hw)
        sample = compose(plan, to_output, self.augmentation.crop_hw, channels=self.channels)
        sample.path = self.index.paths[i]
        return sample

    def draw_side(self, rng: np.random.Generator) -> int:
        """A random longer side, pixels."""
        return int(rng.choice(self.longer_sides, p=self.probabilities))


def random_color_matrix(rng: np.random.Generator, strengths: SemanticAugmentation, image: np.ndarray) -> np.ndarray:
    """(3, 4) affine map of BGR colors: brightness, contrast, saturation and hue in random order.

    Each is linear, so all four take one pass over the image: a gain, a gain around the image's mean luma, a gain around
    each pixel's luma, and a rotation around the gray axis in YIQ, which keeps luma. Values are clipped to 0-255 once,
    at the end.

    Args:
        image: (H, W, 3) uint8 BGR, of which only the mean is used.
    """
    gains = 1 + rng.uniform(-1, 1, 3) * (strengths.brightness, strengths.contrast, strengths.saturation)
    angle = 2 * math.pi * strengths.hue * rng.uniform(-1, 1)
    order = rng.permutation(4)
    mean = float(LUMA_BGR @ cv2.mean(image)[:3])
    saturate = gains[2] * np.eye(3) + (1 - gains[2]) * LUMA_BGR
    linear = (gains[0] * np.eye(3), gains[1] * np.eye(3), saturate, rotate_hue(angle))
    matrix, offset = np.eye(3), np.zeros(3)
    for number in order.tolist():
        matrix, offset = linear[number] @ matrix, linear[number] @ offset
        if number == 0:
            mean *= gains[0]
        elif number == 1:  # the other two keep the mean luma
            offset = offset + (1 - gains[1]) * mean
    return np.concatenate([matrix, offset[:, None]], axis=1)


def rotate_hue(angle: float) -> np.ndarray:
    """(3, 3) rotation of BGR colors around the gray axis, in radians from red towards green; keeps luma."""
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]])
    return np.linalg.inv(TO_YIQ) @ rotation @ TO_YIQ
