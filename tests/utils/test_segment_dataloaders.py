"""Loader and augmentations at `utils.segment`, against golden values and pixels of drawn objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from utils.core.errors import InputError
from utils.segment.augmentations import mixup, random_perspective
from utils.segment.dataloaders import (
    RANK,
    LoadImagesAndLabelsAndMasks,
    create_dataloader,
    polygon2mask,
    polygons2masks,
    polygons2masks_overlap,
)

HYP = {
    **dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "perspective"), 0.0),
    **{"degrees": 20, "shear": 5, "scale": 0.2, "flipud": 0.5, "fliplr": 0.5, "mosaic": 1.0},
}
SMALL = np.array([[20, 20], [44, 24], [30, 44]])  # a triangle in front of a large quadrangle, in pixels
LARGE = np.array([[10, 12], [70, 8], [60, 50], [12, 52]])
LEVELS = {"small": 250, "large": 180}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images folder of a set of six dark images 80x60 with two polygons, the small one first in the label files."""
    root = tmp_path_factory.mktemp("shapes")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    frame = np.zeros((60, 80, 3), np.uint8)
    cv2.fillPoly(frame, [LARGE], (LEVELS["large"],) * 3)
    cv2.fillPoly(frame, [SMALL], (LEVELS["small"],) * 3)
    lines = [f"{label} " + " ".join(f"{x / 80} {y / 60}" for x, y in ring) for label, ring in ((1, SMALL), (0, LARGE))]
    for number in range(6):
        cv2.imwrite(str(root / f"images/{number}.png"), frame)
        (root / f"labels/{number}.txt").write_text("\n".join(lines))
    return root / "images"


# -- masks ------------------------------------------------------------------------------------------------------------


def test_masks_equal_golden_values(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/segment.npz")
    polygons = [golden[f"poly{k}"] for k in range(3)]
    separate = polygons2masks((128, 128), [polygon.reshape(-1) for polygon in polygons], color=1, downsample_ratio=4)
    assert np.array_equal(separate, golden["poly_separate"])
    overlap, order = polygons2masks_overlap((128, 128), polygons, downsample_ratio=4)
    assert np.array_equal(overlap, golden["poly_overlap"]) and overlap.dtype == np.uint8
    assert np.array_equal(order, golden["poly_overlap_order"])
    for k, polygon in enumerate(polygons):
        assert np.array_equal(polygon2mask((128, 128), [polygon], downsample_ratio=4), golden["poly_separate"][k])


def test_mask_of_several_outlines_and_a_color() -> None:
    rings = [np.array([[1, 1], [3, 1], [3, 2], [1, 2]]), np.array([[6, 4], [7, 4], [7, 4]])]
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 1:4] = expected[4, 6:8] = 9
    assert np.array_equal(polygon2mask((6, 8), rings, color=9), expected)
    assert polygons2masks((6, 8), [], color=1).shape == (0, 6, 8)


def test_overlap_of_many_objects() -> None:
    """Rows of one pixel, each in front of the one before, as it is shorter: the visible number counts them."""
    outlines = [np.array([[0, 1], [300 - k, 1], [300 - k, 1]]) for k in range(300)]
    overlap, order = polygons2masks_overlap((3, 320), outlines)
    assert (overlap.dtype, order.tolist()) == (np.int32, list(range(300)))
    assert overlap[1, :302].tolist() == [300, 300, *range(299, 0, -1), 0]


# -- loader -----------------------------------------------------------------------------------------------------------


def test_letterboxed_masks(shapes: Path) -> None:
    """At its own size, against cv2.fillPoly of the label file."""
    large, small = np.zeros((60, 80), np.uint8), np.zeros((60, 80), np.uint8)
    cv2.fillPoly(large, [LARGE], 1)
    cv2.fillPoly(small, [SMALL], 1)
    image, labels, path, fit, masks = LoadImagesAndLabelsAndMasks(str(shapes), img_size=80)[2]
    assert (tuple(image.shape), path, fit[1]) == ((3, 80, 80), str(shapes / "2.png"), ((1.0, 1.0), (0.0, 10.0)))
    assert (labels[:, 1].tolist(), masks.dtype) == ([1, 0], torch.uint8)
    assert not masks[:, :10].any() and not masks[:, 70:].any()
    assert np.array_equal(masks[:, 10:70].numpy(), np.stack([small, large]))
    overlapping = LoadImagesAndLabelsAndMasks(str(shapes), img_size=80, overlap=True)[2]
    assert overlapping[1][:, 1].tolist() == [0, 1]  # the large one first
    assert np.array_equal(overlapping[4][0, 10:70].numpy(), np.where(small, 2, large))


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_masks_of_augmented_batches(shapes: Path, overlap: bool, workers: int) -> None:
    """Masks are where the pixels are: bright ones belong to small objects, others that are not dark to large ones."""
    loader, dataset = create_dataloader(
        str(shapes),
        96,
        3,
        32,
        hyp=HYP,
        augment=True,
        workers=workers,
        shuffle=True,
        mask_downsample_ratio=1,
        overlap_mask=overlap,
    )
    assert isinstance(dataset, LoadImagesAndLabelsAndMasks)
    np.random.seed(0)
    for images, targets, paths, _, masks in loader:
        assert masks.shape == ((len(paths), 96, 96) if overlap else (len(targets), 96, 96))
        for number in range(len(paths)):
            rows, labels = np.flatnonzero(targets[:, 0] == number), targets[targets[:, 0] == number]
            planes = masks[number] == torch.arange(1, len(rows) + 1)[:, None, None] if overlap else masks[rows] > 0
            check_planes(images[number, 0].numpy(), planes.numpy(), labels.numpy())


def erode(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Bool mask without its border of some pixels, also along the border of the image."""
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def check_planes(gray: np.ndarray, planes: np.ndarray, labels: np.ndarray) -> None:
    """Masks (n, h, w) agree with the levels of the image, up to the border of the objects."""
    small, large = (
        planes[labels[:, 1] == label].any(axis=0).astype(np.uint8) if len(labels) else np.zeros(gray.shape, np.uint8)
        for label in (1, 0)
    )
    inner = [erode(mask, 2) for mask in (small, large)]
    assert gray[inner[0]].min(initial=255) > LEVELS["small"] - 30
    assert gray[inner[1]].min(initial=255) > LEVELS["large"] - 30  # or brighter, as small objects are in front
    outside = cv2.dilate(small | large, np.ones((5, 5), np.uint8)) == 0
    assert (gray[outside] <= 114).mean() > 0.98  # others are slivers that are left out of the labels
    for plane, box in zip(planes, labels[:, 2:] * gray.shape[0], strict=True):
        if plane.any():
            y, x = np.nonzero(plane)
            low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
            assert (low - 2 <= [x.min(), y.min()]).all() and (high + 2 >= [x.max(), y.max()]).all()


def test_rect_batches_with_a_ratio(shapes: Path) -> None:
    for overlap, count in ((True, 4), (False, 8)):
        loader, _ = create_dataloader(
            str(shapes), 64, 4, 32, rect=True, pad=0.5, workers=0, mask_downsample_ratio=4, overlap_mask=overlap
        )
        images, targets, _, fits, masks = next(iter(loader))
        assert (images.shape, masks.shape) == ((4, 3, 64, 96), (count, 16, 24))
        assert targets[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert fits[0] == ((60, 80), ((0.8, 0.8), (16.0, 8.0)))
        area = (masks > 0).sum().item() / len(masks)
        whole = cv2.contourArea(LARGE.astype(np.float32)) * 0.64 / 16
        share = 1 if overlap else (1 + cv2.contourArea(SMALL.astype(np.float32)) / (whole * 16 / 0.64)) / 2
        assert area == pytest.approx(whole * share, rel=0.15)


def test_boxes_without_outlines(shared: Path) -> None:
    """A set of boxes gets the boxes as masks."""
    dataset = LoadImagesAndLabelsAndMasks(str(shared / "data/bccd/images/val"), img_size=320)
    _, labels, _, _, masks = dataset[0]
    x, y, w, h = (labels[0, 2:] * 320).tolist()
    assert masks[0].sum().item() == pytest.approx((w + 1) * (h + 1), rel=0.1)
    assert masks[0, int(y), int(x)] == 1
    assert RANK == -1


def test_mosaic_with_outlines_and_errors(shapes: Path) -> None:
    dataset = LoadImagesAndLabelsAndMasks(str(shapes), img_size=96, augment=True, hyp=HYP)
    image, labels, segments = dataset.load_mosaic(0)
    assert (image.shape, labels.shape[1], len(segments)) == ((96, 96, 3), 5, len(labels))
    for row, segment in zip(labels, segments, strict=True):
        assert [*segment.min(axis=0), *segment.max(axis=0)] == pytest.approx(row[1:], abs=1e-3)
    with pytest.raises(InputError, match="quad: not available with masks"):
        create_dataloader(str(shapes), 64, 4, 32, quad=True)


# -- augmentations ----------------------------------------------------------------------------------------------------


def test_mixup() -> None:
    frames = [np.full((4, 5, 3), level, np.uint8) for level in (0, 200)]
    labels = [np.array([[k, 0, 0, 2, 2]], np.float32) for k in range(2)]
    outlines: list[list[Any]] = [[np.zeros((3, 2))], [np.ones((4, 2))]]
    image, rows, segments = mixup(frames[0], labels[0], outlines[0], frames[1], labels[1], outlines[1])
    assert 40 < image[0, 0, 0] < 160 and (image == image[0, 0, 0]).all()  # Beta(32, 32) is near a half
    assert rows.tolist() == [[0, 0, 0, 2, 2], [1, 0, 0, 2, 2]]
    assert [len(segment) for segment in segments] == [3, 4]


def test_random_perspective() -> None:
    np.random.seed(0)
    frame = np.zeros((60, 80, 3), np.uint8)
    cv2.fillPoly(frame, [LARGE], (200, 200, 200))
    targets = np.array([[7, *LARGE.min(axis=0), *LARGE.max(axis=0)], [3, 0, 0, 1, 1]], np.float32)
    outlines = [LARGE.astype(np.float32), np.array([[0, 0], [1, 0], [1, 1]], np.float32)]
    same = random_perspective(frame, targets, outlines, degrees=0, translate=0, scale=0, shear=0)
    assert np.array_equal(same[0], frame)
    assert same[1].tolist() == [targets[0].tolist()]  # the other one is too small to be kept
    assert np.allclose(same[2][0], LARGE)
    for _ in range(5):
        image, rows, segments = random_perspective(frame, targets, outlines, degrees=30, scale=0.3, border=(10, 0))
        assert image.shape == (80, 80, 3)
        for row, segment in zip(rows, segments, strict=True):
            assert row[0] == 7
            assert row[1:].tolist() == pytest.approx([*segment.min(axis=0), *segment.max(axis=0)], abs=1e-3)
            mask = np.zeros((80, 80), np.uint8)
            cv2.fillPoly(mask, [np.rint(segment - 0.5).astype(np.int32)], 1)
            assert (image[erode(mask, 3)] > 180).all()
    empty = random_perspective(frame)
    assert (empty[1].shape, empty[2]) == ((0, 5), [])
