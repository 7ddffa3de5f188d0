"""Training and validation samples of whole images with a class: random crop, mirror and colors, or the center."""

from __future__ import annotations

import math

import cv2
import numpy as np
from torch.utils.data import Dataset

from utils.config.classify import CROP_AREA, JITTER
from utils.core.types import Letterbox, Sample
from utils.datasets.cache import build_cache
from utils.datasets.detection import Key
from utils.datasets.index.image_index import ImageIndex
from utils.imaging.letterbox import resize
from utils.imaging.read import read_image

CROP_ASPECT = (3 / 4, 4 / 3)  # width over height
CROP_TRIES = 10
MIRROR_CHANCE = 0.5
GRAY_OF_BGR = np.array([0.114, 0.587, 0.299])  # ITU-R BT.601
CACHED_SIDE = 2.0  # images are kept with a shorter side of at most so many times the input's

Box = tuple[float, float, float, float]


class ClassificationDataset(Dataset[Sample]):
    """Samples of an index whose images have one label each.

    Args:
        index: images and their classes.
        imgsz: side of the square network input.
        augment: crop, mirror and recolor at random; False takes the largest square in the middle.
        seed: of the augmentation; a sample depends on (seed, epoch, position) and nothing else.
        cache: "ram" or "disk" keeps decoded images.
        channels: of the network input.
        fixed_hw: fit every image into this size instead of a square of `imgsz`.
        crop_area: least share of an image's area that is kept of it.
        jitter: brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        imgsz: int,
        augment: bool,
        seed: int = 0,
        cache: str | None = None,
        channels: int = 3,
        fixed_hw: tuple[int, int] | None = None,
        crop_area: float = CROP_AREA,
        jitter: float = JITTER,
    ) -> None:
        self.crop_area, self.jitter = crop_area, jitter
        self.index, self.augment, self.seed, self.channels = index, augment, seed, channels
        self.size_hw = fixed_hw or (imgsz, imgsz)
        self.kept_hw = np.array([self._kept_size(int(h), int(w)) for h, w in index.sizes_hw]).reshape(-1, 2)
        longest = int(CACHED_SIDE * max(self.size_hw))
        self.cache = build_cache(
            cache, index.paths, self.kept_hw, self._load, longest=longest, channels=channels, as_is=True
        )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> Sample:
        """Sample of (epoch, position), or of a position in epoch 0; what else a key names is for mosaics."""
        epoch, i, *_ = (0, key) if isinstance(key, int | np.integer) else key
        if self.augment:
            image, letterbox = self.augmented(i, np.random.default_rng([self.seed, epoch, i])), None
        else:
            image, letterbox = fit_center(self._image(i, max(self.size_hw)), self.size_hw)
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        label = int(self.index.classes[i])
        return Sample(image, *nothing, path=self.index.paths[i], letterbox=letterbox, label=label)

    def augmented(self, i: int, rng: np.random.Generator) -> np.ndarray:
        """Image i as it is trained: a random part of it at the input's size, perhaps mirrored, recolored."""
        size_hw = int(self.index.sizes_hw[i, 0]), int(self.index.sizes_hw[i, 1])
        x1, y1, x2, y2 = random_crop(size_hw, rng, least_area=self.crop_area)
        mirrored = rng.random() < MIRROR_CHANCE
        gains = 1 + self.jitter * rng.uniform(-1, 1, 3)
        shorter_share = min((x2 - x1) * size_hw[1], (y2 - y1) * size_hw[0]) / min(size_hw)
        frame = self._image(i, max(self.size_hw) / shorter_share)
        height, width = frame.shape[:2]
        left, top = min(round(x1 * width), width - 1), min(round(y1 * height), height - 1)
        part = frame[top : max(round(y2 * height), top + 1), left : max(round(x2 * width), left + 1)]
        image = resize(part, self.size_hw, cv2.INTER_LINEAR)
        if mirrored:
            image = cv2.flip(image, 1).reshape(image.shape)
        return jitter_colors(image, *gains) if self.channels == 3 else np.ascontiguousarray(image)

    def _image(self, i: int, shorter: float) -> np.ndarray:
        """Image i, whose shorter side has at least `shorter` pixels as far as the file has them."""
        if self.cache is not None:
            return self.cache.get(i)
        height, width = self.index.sizes_hw[i].tolist()
        return self._read(i, math.ceil(shorter * max(height, width) / min(height, width)))

    def _read(self, i: int, longest: int) -> np.ndarray:
        shrinks = 2 * longest <= int(self.index.sizes_hw[i].max())
        return read_image(self.index.paths[i], channels=self.channels, reduce_to=longest if shrinks else None)

    def _kept_size(self, height: int, width: int) -> tuple[int, int]:
        """Size at which an image is cached: its own, or smaller if it has much more detail than is needed."""
        share = min(1.0, CACHED_SIDE * max(self.size_hw) / min(height, width))
        return max(1, round(height * share)), max(1, round(width * share))

    def _load(self, i: int) -> np.ndarray:
        """Image i for the cache."""
        size_hw = int(self.kept_hw[i, 0]), int(self.kept_hw[i, 1])
        return resize(self._read(i, max(size_hw)), size_hw, cv2.INTER_AREA)


def random_crop(size_hw: tuple[int, int], rng: np.random.Generator, *, least_area: float = CROP_AREA) -> Box:
    """x1, y1, x2, y2 over width and height of a part with random area and aspect; the middle if none fits."""
    height, width = size_hw
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(least_area, 1)
        aspect = math.exp(rng.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return x / width, y / height, (x + w) / width, (y + h) / height
    w = min(width, height * CROP_ASPECT[1])
    h = min(height, width / CROP_ASPECT[0])
    return (1 - w / width) / 2, (1 - h / height) / 2, (1 + w / width) / 2, (1 + h / height) / 2


def jitter_colors(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """A BGR image with all three changed.

    Each is a blend of the image with black, its mean gray, or its own gray, so together they are one affine map of
    the colors, whatever their order; it is rounded and cut off once.
    """
    mean_gray = float(GRAY_OF_BGR @ np.array(cv2.mean(image)[:3]))
    linear = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), GRAY_OF_BGR)
    offset = brightness * (1 - contrast) * mean_gray
    return cv2.transform(image, np.column_stack([brightness * contrast * linear, np.full(3, offset)]))


def fit_center(frame: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    """The largest part in the middle with the shape of the input, at its size; and where the image lies in it."""
    height, width = frame.shape[:2]
    out_h, out_w = size_hw
    ratio = max(out_h / height, out_w / width)
    part_h, part_w = min(height, round(out_h / ratio)), min(width, round(out_w / ratio))
    top, left = (height - part_h) // 2, (width - part_w) // 2
    part = frame[top : top + part_h, left : left + part_w]
    smaller = part_h > out_h
    image = resize(part, size_hw, cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    ratio_wh = out_w / part_w, out_h / part_h
    pad_wh = round(-left * ratio_wh[0]), round(-top * ratio_wh[1])
    return np.ascontiguousarray(image), Letterbox((height, width), ratio_wh, pad_wh)
