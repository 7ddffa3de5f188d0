"""Classification data set: random crops with color jitter for training, center crops for validation."""

from __future__ import annotations

import math

import cv2
import numpy as np
from torch.utils.data import Dataset

from utils.config.classify import CROP_AREA, JITTER
from utils.core.types import Letterbox, Sample
from utils.datasets.cache import build_cache
from utils.datasets.detection import SampleKey
from utils.datasets.index.image_index import ImageIndex
from utils.imaging.letterbox import resize
from utils.imaging.read import read_image

CROP_ASPECT = (3 / 4, 4 / 3)  # width over height
MAX_CROP_TRIES = 10
FLIP_PROBABILITY = 0.5
LUMA_BGR = np.array([0.114, 0.587, 0.299])  # ITU-R BT.601
CACHE_SCALE = 2.0  # maximum shorter side of cached images over the input's longer side

Box = tuple[float, float, float, float]


class ClassificationDataset(Dataset[Sample]):
    """Samples of an index whose images have one label each.

    Args:
        index: images and their classes.
        imgsz: image size, pixels; the network input is square.
        augment: random crop, flip and color jitter; False for a center crop.
        seed: of the augmentation; a sample depends only on (seed, epoch, position).
        cache: "ram" or "disk" caches decoded images.
        channels: of the network input.
        fixed_hw: input size instead of a square of `imgsz`.
        crop_area: minimum area of a random crop over that of the image.
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
        self.cached_hw = np.array([self._compute_cached_size(int(h), int(w)) for h, w in index.sizes_hw]).reshape(-1, 2)
        longest = int((CACHE_SCALE if augment else 1) * max(self.size_hw))
        self.cache = build_cache(cache, index.paths, self.cached_hw, self._load, longest=longest, channels=channels)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Sample of (epoch, position), or of a position in epoch 0; further entries of the key are ignored."""
        epoch, i, *_ = (0, key) if isinstance(key, int | np.integer) else key
        if self.augment:
            image, letterbox = self.load_augmented(i, np.random.default_rng([self.seed, epoch, i])), None
        else:
            image, letterbox = self._load_center(i)
        no_objects = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        label = int(self.index.classes[i])
        return Sample(image, *no_objects, path=self.index.paths[i], letterbox=letterbox, label=label)

    def load_augmented(self, i: int, rng: np.random.Generator) -> np.ndarray:
        """A random crop of image i at the input size, with random flip and color jitter."""
        size_hw = int(self.index.sizes_hw[i, 0]), int(self.index.sizes_hw[i, 1])
        x1, y1, x2, y2 = random_crop(size_hw, rng, min_area=self.crop_area)
        flip = rng.random() < FLIP_PROBABILITY
        gains = 1 + self.jitter * rng.uniform(-1, 1, 3)
        shorter_share = min((x2 - x1) * size_hw[1], (y2 - y1) * size_hw[0]) / min(size_hw)
        frame = self._image(i, max(self.size_hw) / shorter_share)
        height, width = frame.shape[:2]
        left, top = min(round(x1 * width), width - 1), min(round(y1 * height), height - 1)
        crop = frame[top : max(round(y2 * height), top + 1), left : max(round(x2 * width), left + 1)]
        image = resize(crop, self.size_hw, cv2.INTER_LINEAR)
        if flip:
            image = cv2.flip(image, 1).reshape(image.shape)
        return jitter_colors(image, *gains) if self.channels == 3 else np.ascontiguousarray(image)

    def _load_center(self, i: int) -> tuple[np.ndarray, Letterbox]:
        """The center crop of image i, which is decoded at full size or cached as a crop: as detect.py sees it."""
        if self.cache is None:
            return crop_center(read_image(self.index.paths[i], channels=self.channels), self.size_hw)
        height, width = self.index.sizes_hw[i].tolist()
        return self.cache.get(i), find_center_crop((height, width), self.size_hw)[1]

    def _image(self, i: int, shorter: float) -> np.ndarray:
        """Image i with a shorter side of at least `shorter` pixels, unless the file is smaller."""
        if self.cache is not None:
            return self.cache.get(i)
        height, width = self.index.sizes_hw[i].tolist()
        return self._read(i, math.ceil(shorter * max(height, width) / min(height, width)))

    def _read(self, i: int, longest: int) -> np.ndarray:
        reduce = 2 * longest <= int(self.index.sizes_hw[i].max())
        return read_image(self.index.paths[i], channels=self.channels, reduce_to=longest if reduce else None)

    def _compute_cached_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of a cached image, no larger than the image itself; without augmentation, of its center crop."""
        if not self.augment:
            return self.size_hw
        scale = min(1.0, CACHE_SCALE * max(self.size_hw) / min(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _load(self, i: int) -> np.ndarray:
        """Image i for the cache."""
        if not self.augment:
            return crop_center(read_image(self.index.paths[i], channels=self.channels), self.size_hw)[0]
        size_hw = int(self.cached_hw[i, 0]), int(self.cached_hw[i, 1])
        return resize(self._read(i, max(size_hw)), size_hw, cv2.INTER_AREA)


def random_crop(size_hw: tuple[int, int], rng: np.random.Generator, *, min_area: float = CROP_AREA) -> Box:
    """x1, y1, x2, y2 over width and height of a crop of random area and aspect ratio; the center if none fits."""
    height, width = size_hw
    for _ in range(MAX_CROP_TRIES):
        area = height * width * rng.uniform(min_area, 1)
        aspect = math.exp(rng.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return x / width, y / height, (x + w) / width, (y + h) / height
    w = min(width, height * CROP_ASPECT[1])
    h = min(height, width / CROP_ASPECT[0])
    return (1 - w / width) / 2, (1 - h / height) / 2, (1 + w / width) / 2, (1 + h / height) / 2


def jitter_colors(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Change brightness, contrast and saturation of a BGR image.

    Each one blends the image with black, its mean gray, or its own gray, so together they are one affine map of the
    colors in any order, with one rounding and clipping.
    """
    mean_gray = float(LUMA_BGR @ np.array(cv2.mean(image)[:3]))
    linear = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA_BGR)
    offset = brightness * (1 - contrast) * mean_gray
    return cv2.transform(image, np.column_stack([brightness * contrast * linear, np.full(3, offset)]))


def crop_center(frame: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    """The largest center crop with the input's aspect ratio, at the input size, and the `Letterbox` of the image.

    Resized bilinearly in both directions, as in YOLOv5, whose checkpoints were evaluated that way.
    """
    window, fit = find_center_crop((frame.shape[0], frame.shape[1]), size_hw)
    return np.ascontiguousarray(resize(frame[window], size_hw, cv2.INTER_LINEAR)), fit


def find_center_crop(image_hw: tuple[int, int], size_hw: tuple[int, int]) -> tuple[tuple[slice, slice], Letterbox]:
    """Rows and columns of the center crop of an image, and the `Letterbox` of the image."""
    (height, width), (out_h, out_w) = image_hw, size_hw
    ratio = max(out_h / height, out_w / width)
    crop_h, crop_w = min(height, round(out_h / ratio)), min(width, round(out_w / ratio))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    ratio_wh = out_w / crop_w, out_h / crop_h
    pad_wh = round(-left * ratio_wh[0]), round(-top * ratio_wh[1])
    return (slice(top, top + crop_h), slice(left, left + crop_w)), Letterbox(image_hw, ratio_wh, pad_wh)
