"""Samples of whole images: repeatable augmentation, center crops, caches, and what of a file is decoded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.class_sets import write_class_set
from utils.datasets.classification import ClassificationDataset, crop_center, jitter_colors, random_crop
from utils.datasets.index.class_folders import load_class_data, load_class_index
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.loader import build_loader
from utils.imaging.letterbox import resize
from utils.imaging.read import read_image


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    return load_class_index(load_class_data(write_class_set(tmp_path / "set")), "train")


def test_a_sample_depends_on_seed_epoch_and_position(index: ImageIndex) -> None:
    data = ClassificationDataset(index, imgsz=32, augment=True, seed=1)
    first, again = data[(3, 5)], ClassificationDataset(index, imgsz=32, augment=True, seed=1)[(3, 5)]
    assert np.array_equal(first.image, again.image)
    assert first.image.shape == (32, 32, 3)
    assert (first.label, first.path) == (0, index.paths[5])
    others = [data[(4, 5)], data[(3, 6)], ClassificationDataset(index, imgsz=32, augment=True, seed=2)[(3, 5)]]
    assert not any(np.array_equal(first.image, other.image) for other in others)


def test_workers_change_nothing(index: ImageIndex) -> None:
    data = ClassificationDataset(index, imgsz=32, augment=True)
    alone, together = (build_loader(data, batch_size=4, workers=n, shuffle=True) for n in (0, 2))
    for loader in (alone, together):
        loader.set_epoch(2)
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.images, b.images)
        assert a.labels is not None
        assert a.labels.tolist() == b.labels.tolist()
        assert a.targets.shape == (0, 6)
        assert a.num_instances == 4


def test_validation_uses_the_center_crop(tmp_path: Path) -> None:
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, 10:30] = 200
    image, fit = crop_center(frame, (40, 40))
    assert (image == 200).all()
    assert fit.original_hw == (20, 40)
    assert fit.ratio_wh == (2.0, 2.0)
    assert fit.pad_wh == (-20, 0)
    tall, _ = crop_center(np.ascontiguousarray(frame.transpose(1, 0, 2)), (20, 20))
    assert (tall == 200).all()
    wide, fit = crop_center(frame, (20, 40))
    assert np.array_equal(wide, frame)
    assert fit.pad_wh == (0, 0)


@pytest.mark.parametrize("size_hw", [(61, 100), (100, 61), (80, 80), (20, 33)])
def test_the_center_square_is_resized_bilinearly(size_hw: tuple[int, int]) -> None:
    """Against bilinear sampling at pixel centers, written out; OpenCV's fixed-point weights may move a value by one."""
    frame = np.random.default_rng(0).integers(0, 256, (*size_hw, 3)).astype(np.uint8)
    side, (top, left) = min(size_hw), [(length - min(size_hw)) // 2 for length in size_hw]
    square = frame[top : top + side, left : left + side].astype(np.float64)
    position = np.clip((np.arange(24) + 0.5) * side / 24 - 0.5, 0, side - 1)
    low, share = np.floor(position).astype(int), position % 1
    high = np.minimum(low + 1, side - 1)
    rows = square[low] * (1 - share[:, None, None]) + square[high] * share[:, None, None]
    expected = rows[:, low] * (1 - share[:, None]) + rows[:, high] * share[:, None]
    image, _ = crop_center(frame, (24, 24))
    assert np.abs(image - expected).max() <= 1


@pytest.mark.parametrize("kind", [None, "ram", "disk"])
def test_validation_sees_the_pixels_that_detect_sees(tmp_path: Path, kind: str | None) -> None:
    for split in ("train", "val"):
        folder = tmp_path / split / "only"
        folder.mkdir(parents=True)
        noise = np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / "a.jpg"), cv2.resize(noise, (600, 400)))  # large enough for a reduced decoding
    index = load_class_index(load_class_data(tmp_path), "val")
    sample = ClassificationDataset(index, imgsz=48, augment=False, cache=kind)[0]
    image, fit = crop_center(read_image(index.paths[0]), (48, 48))
    assert np.array_equal(sample.image, image)
    assert sample.letterbox == fit


def test_random_crops_keep_their_bounds() -> None:
    rng = np.random.default_rng(0)
    for size_hw in ((100, 100), (100, 240), (50, 40)):
        height, width = size_hw
        for _ in range(200):
            x1, y1, x2, y2 = random_crop(size_hw, rng)
            assert 0 <= x1 < x2 <= 1 + 1e-9
            assert 0 <= y1 < y2 <= 1 + 1e-9
            w, h = (x2 - x1) * width, (y2 - y1) * height
            assert 0.08 - 1e-9 <= w * h / (width * height) <= 1 + 1e-9
            assert 3 / 4 - 1e-9 <= w / h <= 4 / 3 + 1e-9


def test_crop_area_and_jitter_options(index: ImageIndex) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x1, y1, x2, y2 = random_crop((100, 100), rng, min_area=0.7)
        assert (x2 - x1) * (y2 - y1) >= 0.7 - 1e-9
    assert random_crop((100, 120), rng, min_area=1.0) == pytest.approx((0, 0, 1, 1))
    dataset = ClassificationDataset(index, imgsz=32, augment=True, crop_area=1.0, jitter=0.0)
    whole = resize(read_image(index.paths[0]), (32, 32), cv2.INTER_LINEAR)
    seen = dataset[0].image
    assert np.array_equal(seen, whole) or np.array_equal(seen, cv2.flip(whole, 1))


def test_a_strip_falls_back_to_its_center() -> None:
    x1, y1, x2, y2 = random_crop((10, 1000), np.random.default_rng(0))
    assert (y1, y2) == (0, 1)
    assert (x2 - x1) * 1000 == pytest.approx(10 * 4 / 3)
    assert x1 + x2 == pytest.approx(1)


def test_colors_are_blends_with_black_mean_gray_and_own_gray() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 120, (8, 9, 3)).astype(np.uint8)
    weights = np.array([0.114, 0.587, 0.299])

    def plainly(brightness: float, contrast: float, saturation: float) -> np.ndarray:
        x = image.astype(np.float64) * brightness
        x = contrast * x + (1 - contrast) * (x @ weights).mean()
        return saturation * x + (1 - saturation) * (x @ weights)[..., None]

    for gains in ((1, 1, 1), (1.3, 1, 1), (1, 0.6, 1), (1, 1, 1.4), (0.8, 1.2, 0.7)):
        found = jitter_colors(image, *gains)
        assert found.dtype == np.uint8
        assert np.abs(found - plainly(*gains)).max() < 0.75  # half a step, and OpenCV's fixed-point factors
    assert np.array_equal(jitter_colors(image, 1, 1, 1), image)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_cache_of_small_images_gives_the_same_samples(index: ImageIndex, kind: str) -> None:
    plain, cached = (ClassificationDataset(index, imgsz=32, augment=True, cache=c) for c in (None, kind))
    assert cached.cache is not None
    for i in range(len(index)):
        assert np.array_equal(plain[(1, i)].image, cached[(1, i)].image)


def test_a_cache_keeps_large_images_at_twice_the_input(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = tmp_path / split / "only"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "a.jpg"), np.full((400, 600, 3), 90, np.uint8))
    index = load_class_index(load_class_data(tmp_path), "train")
    data = ClassificationDataset(index, imgsz=64, augment=True, cache="ram")
    assert data.cache is not None
    assert data.cache.get(0).shape == (128, 192, 3)
    assert data[0].image.shape == (64, 64, 3)


def test_one_channel_and_a_fixed_size(index: ImageIndex) -> None:
    gray = ClassificationDataset(index, imgsz=32, augment=True, channels=1)[0]
    assert gray.image.shape == (32, 32, 1)
    fixed = ClassificationDataset(index, imgsz=32, augment=False, fixed_hw=(24, 48))[(0, 0, (1, 2))]
    assert fixed.image.shape == (24, 48, 3)
    assert fixed.letterbox is not None
