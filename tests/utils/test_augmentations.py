from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from utils import augmentations
from utils.core.logging import LOGGER


def draw_frame(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


# -- letterbox --------------------------------------------------------------------------------------------------------


def test_letterbox_of_a_gray_image() -> None:
    gray = np.full((10, 20), 9, np.uint8)
    padded, ratio, pad = augmentations.letterbox(gray, 40, color=(5, 6, 7), auto=False)
    assert padded.shape == (40, 40)
    assert (ratio, pad) == ((2.0, 2.0), (0.0, 10.0))
    assert padded[[0, 9, 30, 39]].tolist() == [[5] * 40] * 4
    assert padded[10:30].tolist() == [[9] * 40] * 20


def test_letterbox_by_its_former_argument() -> None:
    padded, _, _ = augmentations.letterbox(img=np.zeros((30, 60, 3), np.uint8), new_shape=(64, 64))
    assert padded.shape == (32, 64, 3)  # auto: the next multiple of 32


@pytest.mark.parametrize(
    ("size", "auto", "expected"), [((40, 60), False, (40, 60)), (64, False, (64, 64)), ((64, 64), True, (32, 64))]
)
def test_letterbox_class(size: Any, auto: bool, expected: tuple[int, int]) -> None:
    frame = np.full((20, 40, 3), 200, np.uint8)
    out = augmentations.LetterBox(size, auto=auto, stride=32)(frame)
    assert out.shape == (*expected, 3)
    inner_h = round(20 * min(expected[0] / 20, expected[1] / 40))
    top = (expected[0] - inner_h) // 2
    assert (out[:top] == 114).all()
    assert (out[top : top + inner_h] == 200).all()
    assert (out[top + inner_h :] == 114).all()


# -- colors -----------------------------------------------------------------------------------------------------------


def test_albumentations(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("albumentations")
    transform = augmentations.Albumentations(size=64)
    frame, labels = draw_frame(), np.array([[0, 0.5, 0.5, 0.2, 0.2]])
    monkeypatch.setattr("utils.datasets.augment.albumentations.LIGHT_PROBABILITY", 1.0)
    changed, same = transform(frame, labels)
    assert same is labels
    assert changed.shape == frame.shape
    assert not np.array_equal(changed, frame)
    assert np.ptp(changed.astype(int), axis=2).max() <= 2  # gray; CLAHE, which comes after, rounds in another space
    unchanged, _ = transform(frame, labels, p=0.0)
    assert unchanged is frame


def test_albumentations_is_not_installed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(augmentations, "is_installed", lambda: False)
    frame = draw_frame()
    assert augmentations.Albumentations()(frame, np.zeros((0, 5)))[0] is frame
    assert augmentations.classify_albumentations() is None
    assert caplog.messages == ["WARNING: Albumentations is not installed: pip install 'albumentations>=2'"]


def test_augment_hsv() -> None:
    """Gains of saturation only: hue and value stay."""
    frame = np.full((4, 5, 3), (40, 80, 160), np.uint8)
    hue, saturation, value = cv2.cvtColor(frame, cv2.COLOR_BGR2HSV)[0, 0].tolist()
    seen = set()
    for seed in range(8):
        random.seed(seed)
        changed = frame.copy()
        assert augmentations.augment_hsv(changed, hgain=0, sgain=0.5, vgain=0) is None
        after = cv2.cvtColor(changed, cv2.COLOR_BGR2HSV)[0, 0].tolist()
        assert abs(after[0] - hue) <= 1
        assert after[2] == value
        assert 0.5 * saturation - 2 <= after[1] <= min(255, 1.5 * saturation + 2)
        seen.add(after[1])
    assert len(seen) > 4
    view = np.zeros((8, 10, 3), np.uint8)[:, ::2]
    view[:] = (40, 80, 160)
    augmentations.augment_hsv(img=view, vgain=0.9)  # any array, by its former name
    random.seed(3)
    first = frame.copy()
    augmentations.augment_hsv(first)
    random.seed(3)
    second = frame.copy()
    augmentations.augment_hsv(second)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("bgr", [False, True])
def test_hist_equalize(bgr: bool) -> None:
    gray = np.tile(np.linspace(100, 120, 64).astype(np.uint8)[None, :, None], (64, 1, 3))
    whole = augmentations.hist_equalize(gray, clahe=False, bgr=bgr)
    assert whole.min() <= 1
    assert whole.max() >= 254
    tiles = augmentations.hist_equalize(gray, clahe=True, bgr=bgr)
    assert np.ptp(gray) < np.ptp(tiles) < np.ptp(whole)
    red = np.full((16, 16, 3), (0, 0, 200) if bgr else (200, 0, 0), np.uint8)
    red[:8] //= 2
    out = augmentations.hist_equalize(red, clahe=False, bgr=bgr)
    assert out[-1, 0].argmax() == (2 if bgr else 0)  # still red


def test_normalize() -> None:
    x = torch.rand(2, 3, 4, 5)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (x.numpy() - mean[:, None, None]) / std[:, None, None]
    normalized = augmentations.normalize(x)
    np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(augmentations.denormalize(normalized), x)
    torch.testing.assert_close(augmentations.denormalize(x, mean=(1, 2, 3), std=(2, 2, 2))[0, 2], 2 * x[0, 2] + 3)
    assert augmentations.normalize(x, (0, 0, 0), (2, 2, 2), inplace=True) is x


# -- geometry ---------------------------------------------------------------------------------------------------------


def test_random_perspective_without_strengths() -> None:
    frame, targets = draw_frame(), np.array([[1, 10, 10, 40, 40], [2, 78, 0, 80, 60]], np.float32)
    none = {"degrees": 0, "translate": 0, "scale": 0, "shear": 0}
    image, kept = augmentations.random_perspective(frame, targets, **none)
    np.testing.assert_array_equal(image, frame)
    np.testing.assert_allclose(kept, targets[:1], atol=1e-4)  # the other one is 2 pixels wide
    cropped, kept = augmentations.random_perspective(frame, targets, **none, border=(-10, -20))
    np.testing.assert_array_equal(cropped, frame[10:50, 20:60])
    np.testing.assert_allclose(kept, [[1, 0, 0, 20, 30]], atol=1e-4)


def test_random_perspective_moves_boxes_with_pixels() -> None:
    """A bright box on black: the kept box encloses the bright pixels of each result."""
    for seed in range(6):
        random.seed(seed)
        frame = np.zeros((200, 240, 3), np.uint8)
        frame[60:120, 80:160] = 255
        image, kept = augmentations.random_perspective(
            frame, [[3, 80, 60, 160, 120]], degrees=20, translate=0.1, scale=0.3, shear=5, perspective=1e-4
        )
        rows, columns = np.nonzero(image.min(axis=2) > 200)
        assert len(kept) == 1
        assert kept[0, 0] == 3
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(kept[0, 1:], found, atol=3)


def test_random_perspective_with_outlines() -> None:
    """The box of a rotated diamond comes from its outline, not from the corners of its box."""
    frame = np.zeros((200, 200, 3), np.uint8)
    diamond = np.array([[100.0, 60], [140, 100], [100, 140], [60, 100]])
    box = [[0, 60, 60, 140, 140]]
    random.seed(1)
    _, plain = augmentations.random_perspective(frame, box, (), degrees=45, translate=0, scale=0, shear=0)
    random.seed(1)
    _, exact = augmentations.random_perspective(frame, box, [diamond], degrees=45, translate=0, scale=0, shear=0)
    assert exact[0, 3] - exact[0, 1] <= 80.01
    assert plain[0, 3] - plain[0, 1] > 80.01
    assert augmentations.random_perspective(img=frame)[1].shape == (0, 5)


def test_box_candidates() -> None:
    before = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 100, 100], [0, 0, 10, 10]]).T
    after = np.array([[0, 0, 5, 5], [0, 0, 2, 10], [0, 0, 3, 3], [0, 0, 100, 3], [0, 0, 0, 0]]).T
    # areas 25 %, too narrow, 9 %, 3 % and thin, empty
    assert augmentations.box_candidates(before, after).tolist() == [True, False, False, False, False]
    assert augmentations.box_candidates(before, after, area_thr=0.01).tolist() == [True, False, True, True, False]
    assert augmentations.box_candidates(before, after, area_thr=0.01, ar_thr=20).tolist()[3] is False


# -- objects ----------------------------------------------------------------------------------------------------------


def test_replicate() -> None:
    random.seed(0)
    frame = np.zeros((100, 120, 3), np.uint8)
    frame[10:20, 10:30] = 77
    labels = np.array([[0, 10, 10, 30, 20], [1, 0, 40, 60, 90]], np.float32)
    out, more = augmentations.replicate(frame, labels)
    assert out is frame
    np.testing.assert_array_equal(more[:2], labels)
    (row,) = more[2:]
    x1, y1, x2, y2 = row[1:].astype(int)
    assert (row[0], x2 - x1, y2 - y1) == (0, 20, 10)  # the smaller one
    assert (frame[y1:y2, x1:x2] == 77).all()


def test_copy_paste() -> None:
    frame = np.zeros((50, 100, 3), np.uint8)
    frame[10:21, 5:26] = 200
    labels = np.array([[4, 5, 10, 25, 20]], np.float32)
    ring = np.array([[5, 10], [25, 10], [25, 20], [5, 20]], np.float32)
    out, more, rings = augmentations.copy_paste(frame.copy(), labels, [ring], p=1.0)
    assert more.tolist() == [[4, 5, 10, 25, 20], [4, 75, 10, 95, 20]]
    np.testing.assert_array_equal(rings[1], [[95, 10], [75, 10], [75, 20], [95, 20]])
    assert (out[11:20, 76:94] == 200).all()
    assert (out[:, :50] == frame[:, :50]).all()
    centered = np.array([[4, 40, 10, 60, 20]], np.float32)  # its mirror image would hide it
    same, kept, _ = augmentations.copy_paste(frame.copy(), centered, [ring], p=1.0)
    assert len(kept) == 1
    np.testing.assert_array_equal(same, frame)
    assert len(augmentations.copy_paste(frame.copy(), labels, [ring], p=0.0)[1]) == 1


def test_cutout() -> None:
    frame, labels = np.zeros((64, 96, 3), np.uint8), np.array([[0, 0, 0, 96, 64], [1, 40, 30, 42, 32]], np.float32)
    assert augmentations.cutout(frame, labels, p=0.0) is labels
    assert not frame.any()
    counts = set()
    for seed in range(60):
        random.seed(seed)
        image = np.zeros((64, 96, 3), np.uint8)
        kept = augmentations.cutout(image, labels, p=1.0)
        assert image.any()
        values = image[image > 0]
        assert 64 <= values.min() <= values.max() <= 191
        assert kept[0, 0] == 0  # no hole hides 60 % of the whole image
        hidden = image[30:32, 40:42].any(axis=2).mean()
        assert len(kept) == 2 or hidden > 0.6
        counts.add(len(kept))
    assert counts == {1, 2}


def test_mixup() -> None:
    random.seed(0)
    low, high = np.full((8, 9, 3), 50, np.uint8), np.full((8, 9, 3), 150, np.uint8)
    ratios = []
    for _ in range(50):
        image, labels = augmentations.mixup(low, np.ones((2, 5)), high, np.zeros((1, 5)))
        assert labels.tolist() == [[1] * 5, [1] * 5, [0] * 5]
        assert np.ptp(image) == 0
        ratios.append((150 - int(image[0, 0, 0])) / 100)
    assert 0.45 < np.mean(ratios) < 0.55
    assert 0.03 < np.std(ratios) < 0.09  # of Beta(32, 32): 0.062


# -- classifiers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 40), (50, 50)])
def test_center_crop(height: int, width: int) -> None:
    frame = draw_frame(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frame[top : top + side, left : left + side]
    expected = cv2.resize(square, (32, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(augmentations.CenterCrop(32)(frame), expected)
    assert augmentations.CenterCrop((20, 30))(frame).shape == (20, 30, 3)


@pytest.mark.parametrize(("half", "dtype"), [(False, torch.float32), (True, torch.float16)])
def test_to_tensor(half: bool, dtype: torch.dtype) -> None:
    frame = np.array([[[0, 51, 255], [10, 20, 30]]], np.uint8)  # BGR
    tensor = augmentations.ToTensor(half)(frame)
    assert tensor.dtype == dtype
    expected = torch.tensor([[[255, 30]], [[51, 20]], [[0, 10]]]).to(dtype) / 255
    torch.testing.assert_close(tensor, expected)


def test_classify_transforms() -> None:
    frame = draw_frame(40, 60)
    tensor: Tensor = augmentations.classify_transforms(24)(frame)
    crop = cv2.resize(frame[:, 10:50], (24, 24), interpolation=cv2.INTER_LINEAR)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((crop[..., ::-1] / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(tensor, expected, atol=1e-5)


def test_classify_albumentations(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("albumentations")
    frame = np.full((40, 60, 3), (255, 128, 0), np.uint8)
    plain = augmentations.classify_albumentations(augment=False, size=24, mean=(0, 0, 0), std=(1, 1, 1))
    tensor = plain(image=frame)["image"]
    assert tensor.shape == (3, 24, 24)
    np.testing.assert_allclose(tensor[:, 5, 5], [1, 128 / 255, 0], atol=1e-6)
    caplog.set_level("INFO", LOGGER.name)
    pipeline = augmentations.classify_albumentations(size=24, jitter=0, hflip=1.0, auto_aug=True)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(pipeline(image=frame)["image"][:, 3, 3], ([1, 128 / 255, 0] - mean) / std, atol=1e-5)
    assert caplog.messages == ["WARNING auto_aug is not supported: using color jitter instead"]
