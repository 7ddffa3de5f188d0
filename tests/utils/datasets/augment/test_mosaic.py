from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from utils.config.hyp import Hyperparameters
from utils.datasets.augment.compose import Placement, SourceImage, compose, find_visible
from utils.datasets.augment.mosaic import (
    compute_coverage,
    place_in_cell,
    plan_copy_paste,
    plan_mosaic,
    plan_mosaic9,
    plan_single,
)
from utils.datasets.augment.transforms import random_transform
from utils.ops.polygons import clip_rings, compute_bounding_box, transform_points

STILL = Hyperparameters(degrees=0, translate=0, scale=0, shear=0, perspective=0)
WILD = Hyperparameters(degrees=30, translate=0.2, scale=0.5, shear=8, perspective=0.0005)
GRAY = 114


def block_image(
    value: int, size_hw: tuple[int, int], box_xyxyn: tuple[float, float, float, float], *, scale: float = 1.0
) -> SourceImage:
    """An image of `value` with one block of value + 100 whose box, polygon and semantic mask are known."""
    height, width = (round(side * scale) for side in size_hw)
    frame = np.full((height, width, 3), value, np.uint8)
    x1, y1, x2, y2 = (round(v * side) for v, side in zip(box_xyxyn, (width, height) * 2, strict=True))
    frame[y1:y2, x1:x2] = value + 100
    semantic_mask = (frame[..., 0] >= 100).astype(np.uint8)
    ring = np.array(box_xyxyn, np.float32)[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    return SourceImage(
        size_hw,
        lambda wanted: frame,
        np.array([value]),
        np.array([box_xyxyn], np.float32),
        [[ring]],
        lambda: semantic_mask,
        f"{value}.png",
    )


def still(canvas_hw: tuple[int, int], out_hw: tuple[int, int]) -> np.ndarray:
    return random_transform(np.random.default_rng(0), STILL, canvas_hw, out_hw)


def four(imgsz: int) -> list[SourceImage]:
    sizes = [(imgsz, imgsz), (imgsz * 3 // 4, imgsz), (imgsz, imgsz // 2), (imgsz // 2, imgsz)]
    return [block_image(10 + 10 * n, size, (0.25, 0.25, 0.75, 0.75)) for n, size in enumerate(sizes)]


def test_identity_transform_crops_the_center_of_the_canvas() -> None:
    np.testing.assert_allclose(still((128, 128), (64, 64)), [[1, 0, -32], [0, 1, -32], [0, 0, 1]])


def test_single_plan_is_a_letterbox() -> None:
    image = block_image(50, (48, 64), (0.25, 0.25, 0.75, 0.75))
    sample = compose(plan_single(image, (64, 64)), np.eye(3), (64, 64))
    assert (sample.image[:8] == GRAY).all()
    assert (sample.image[56:] == GRAY).all()
    assert (sample.image[8, :] == 50).all()
    assert sample.boxes_xyxy.tolist() == [[16, 20, 48, 44]]
    assert sample.semantic_mask is not None
    assert (sample.semantic_mask[20:44, 16:48] == 1).all()
    assert (sample.semantic_mask[:8] == 255).all()
    assert (sample.semantic_mask == 1).sum() == 24 * 32


@pytest.mark.parametrize("seed", range(8))
def test_mosaic_boxes_match_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hyp = Hyperparameters(scale=0.5, translate=0.1)
    sample = compose(plan_mosaic(four(160), rng, 160), random_transform(rng, hyp, (320, 320), (160, 160)), (160, 160))
    assert sample.polygons is not None
    assert sample.semantic_mask is not None
    for box, value, rings in zip(sample.boxes_xyxy, sample.classes, sample.polygons, strict=True):
        x1, y1, x2, y2 = np.rint(box).astype(int)
        inner = sample.image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]  # enlarging blends up to two pixels at an edge
        assert (inner == value + 100).all()
        assert (sample.semantic_mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] == 1).all()
        np.testing.assert_allclose(compute_bounding_box(rings), box, atol=1e-4)
        assert box.min() >= 0
        assert box.max() <= 160


def test_mosaic_tiles_meet_at_one_point() -> None:
    placements = plan_mosaic(four(64), np.random.default_rng(3), 64)
    sample = compose(placements, np.eye(3), (128, 128))
    seen = {int(v) for v in np.unique(sample.image)}
    assert {10, 20, 30, 40} <= seen
    x, y = np.random.default_rng(3).uniform(32, 96, 2)
    x, y = round(x), round(y)
    corners = sample.image[[y - 1, y - 1, y, y], [x - 1, x, x - 1, x], 0]
    assert corners.tolist() == [10, 20, 30, 40]


def test_mosaic9_fills_nine_cells() -> None:
    images = [block_image(10 * n, (64, 64), (0.4, 0.4, 0.6, 0.6)) for n in range(9)]
    sample = compose(plan_mosaic9(images, np.random.default_rng(1), 64), np.eye(3), (128, 128))
    center = np.random.default_rng(1).uniform(32, 96, 2)
    x, y = np.rint(center).astype(int)
    around = [sample.image[int(y + dy), int(x + dx), 0] for dy in (-34, 0, 34) for dx in (-34, 30, 34) if (dx, dy)]
    inside = sample.image[y + 25, x + 25, 0]
    assert inside == 0
    assert len({int(v) for v in around}) >= 4
    assert sample.image[y, x, 0] == 100  # the first image's block


@pytest.mark.parametrize("seed", range(6))
def test_warped_mosaic_transforms_all_labels_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = plan_mosaic(four(160), rng, 160)
    sample = compose(plan, random_transform(rng, WILD, (320, 320), (160, 160)), (160, 160))
    assert sample.polygons is not None
    assert sample.semantic_mask is not None
    bright = np.isin(sample.image[..., 0], [110, 120, 130, 140])
    agree = (sample.semantic_mask == 1)[bright].mean()
    assert agree > 0.97  # the block's own pixels; blended edges have other values
    for box, rings in zip(sample.boxes_xyxy, sample.polygons, strict=True):
        np.testing.assert_allclose(compute_bounding_box(rings), box, atol=1e-4)
        assert box.min() >= 0
        assert box.max() <= 160


@pytest.mark.parametrize("hyp", [replace(STILL, scale=0.5, translate=0.1), WILD], ids=["upright", "warped"])
def test_compose_equals_warping_a_canvas(hyp: Hyperparameters) -> None:
    """The plain way: draw the whole canvas, then warp it."""
    import cv2

    rng = np.random.default_rng(5)
    plan = plan_mosaic(four(160), rng, 160)
    matrix = random_transform(rng, hyp, (320, 320), (160, 160))
    canvas = compose(plan, np.eye(3), (320, 320)).image
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    plain = cv2.warpPerspective(
        canvas, np.linalg.inv(half) @ matrix @ half, (160, 160), borderValue=(GRAY,) * 3
    ).astype(int)
    ours = compose(plan, matrix, (160, 160)).image.astype(int)
    assert (np.abs(ours - plain).max(axis=2) > 8).mean() < 0.03  # edges of blocks and tiles may shift by half a pixel


def test_invisible_images_are_not_read() -> None:
    def refuse(wanted: int) -> np.ndarray:
        raise AssertionError("read")

    outside = replace(block_image(10, (64, 64), (0, 0, 1, 1)), read=refuse)
    seen = block_image(20, (64, 64), (0, 0, 1, 1))
    plan = [place_in_cell(seen, (0, 0, 64, 64), (0, 0)), place_in_cell(outside, (64, 0, 128, 64), (0, 0))]
    sample = compose(plan, np.eye(3), (64, 64))
    assert sample.classes.tolist() == [20]
    turned = np.array([[0.0, -1.0, 64.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # the second one lands below
    assert compose(plan, turned, (64, 64)).classes.tolist() == [20]


def test_quarter_turn() -> None:
    image = block_image(20, (40, 80), (0.0, 0.0, 0.5, 0.5))  # block 40 x 20 at the upper left
    plan = [Placement(image, np.diag([80.0, 40.0, 1.0]))]
    turned = np.array([[0.0, -1.0, 40.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x' = 40 - y, y' = x
    sample = compose(plan, turned, (80, 40))
    np.testing.assert_allclose(sample.boxes_xyxy, [[20, 0, 40, 40]], atol=1e-5)
    assert (sample.image[1:39, 21:39] == 120).all()
    assert (sample.image[41:, :] == 20).all()


def test_large_image_has_the_same_placement() -> None:
    small, large = (block_image(20, (64, 64), (0.25, 0.25, 0.5, 0.75), scale=s) for s in (1.0, 4.0))
    one, two = (compose(plan_single(p, (64, 64)), np.eye(3), (64, 64)) for p in (small, large))
    np.testing.assert_allclose(one.boxes_xyxy, two.boxes_xyxy, atol=1e-5)
    assert (one.image == two.image).mean() > 0.95


def test_no_labels() -> None:
    empty = replace(
        block_image(20, (64, 64), (0, 0, 1, 1)),
        classes=np.zeros(0, np.int64),
        boxes_xyxyn=np.zeros((0, 4), np.float32),
        polygons=[],
    )
    for matrix in (np.eye(3), np.array([[0.0, -1.0, 64.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])):
        sample = compose(plan_single(empty, (64, 64)), matrix, (64, 64))
        assert sample.boxes_xyxy.shape == (0, 4)
        assert sample.boxes_xyxy.dtype == np.float32
        assert sample.classes.dtype == np.int64
        assert sample.polygons == []
    assert plan_copy_paste([Placement(empty, np.eye(3))], np.random.default_rng(0), share=1.0, canvas_width=64) == []


@pytest.mark.parametrize("channels", [1, 4, 10])
def test_other_channel_counts(channels: int) -> None:
    frame = np.arange(channels, dtype=np.uint8) * np.ones((32, 32, 1), np.uint8) + 1
    source = SourceImage((32, 32), lambda wanted: frame, np.zeros(0, int), np.zeros((0, 4)))
    for matrix in (np.diag([0.5, 0.5, 1.0]), np.array([[0.0, -1.0, 32.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])):
        image = compose(plan_single(source, (32, 32)), matrix, (32, 32), channels=channels).image
        assert image.shape == (32, 32, channels)
        assert image[4, 4].tolist() in [list(range(1, channels + 1)), [GRAY] * channels]
        assert (image == frame[0, 0]).all(axis=2).sum() >= 15 * 15


@pytest.mark.parametrize(
    ("areas", "box", "min_area", "kept"),
    [
        pytest.param(100, [0, 0, 10, 10], 0.1, True, id="whole"),
        pytest.param(100, [0, 0, 2, 50], 0.1, False, id="two pixels wide"),
        pytest.param(100, [0, 0, 2.1, 50], 0.1, True, id="just wider"),
        pytest.param(1000, [0, 0, 10, 10], 0.1, False, id="a tenth left"),
        pytest.param(1000, [0, 0, 10, 10], 0.01, True, id="a tenth left of a polygon"),
        pytest.param(900, [0, 0, 3, 300], 0.1, False, id="1:100"),
    ],
)
def test_find_visible(areas: float, box: list[float], min_area: float, kept: bool) -> None:
    assert find_visible(np.array([areas]), np.array([box], float), min_area).tolist() == [kept]


def test_paste_flips_the_object_across_the_canvas() -> None:
    image = block_image(20, (64, 64), (0.125, 0.25, 0.375, 0.5))  # block at x 8-24, y 16-32
    plan = plan_single(image, (64, 64))
    pasted = plan_copy_paste(plan, np.random.default_rng(0), share=1.0, canvas_width=64)
    assert len(pasted) == 1
    sample = compose([*plan, *pasted], np.eye(3), (64, 64))
    np.testing.assert_allclose(sample.boxes_xyxy, [[8, 16, 24, 32], [40, 16, 56, 32]], atol=1e-4)
    assert (sample.image[17:31, 41:55] == 120).all()
    assert (sample.image[:, 60:] == 20).all()
    assert sample.semantic_mask is not None
    assert (sample.semantic_mask[17:31, 41:55] == 1).all()
    assert sample.classes.tolist() == [20, 20]


def test_paste_does_not_cover_objects() -> None:
    image = block_image(20, (64, 64), (0.25, 0.25, 0.75, 0.5))  # its mirror image lies on itself
    assert plan_copy_paste(plan_single(image, (64, 64)), np.random.default_rng(0), share=1.0, canvas_width=64) == []
    boxes = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    assert compute_coverage(boxes, np.array([5.0, 0, 20, 10])).tolist() == [0.5, 0]


def test_paste_share_rounds() -> None:
    boxes = np.array([[0.02 + 0.1 * n, 0.1 * n, 0.06 + 0.1 * n, 0.04 + 0.1 * n] for n in range(4)], np.float32)
    rings = [[box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)] for box in boxes]
    image = SourceImage((64, 64), lambda wanted: np.zeros((64, 64, 3), np.uint8), np.arange(4), boxes, rings)
    plan = plan_single(image, (64, 64))
    for share, count in ((0.0, 0), (0.1, 0), (0.25, 1), (0.5, 2), (1.0, 4)):
        assert len(plan_copy_paste(plan, np.random.default_rng(0), share=share, canvas_width=64)) == count


def test_clip_rings_by_hand() -> None:
    triangle = np.array([[-1.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    (cut,) = clip_rings([triangle], (0, 0, 4, 4))
    assert compute_bounding_box([cut]) == (0.0, 0.0, 1.0, 2.0)
    x, y = cut.T
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == pytest.approx(1.5)  # half a unit cut off
    assert clip_rings([triangle - 10], (0, 0, 4, 4)) == []
    assert clip_rings([], (0, 0, 4, 4)) == []


def test_polygon_on_the_left_edge_counts() -> None:
    ring = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    assert compute_bounding_box([ring]) == (0.0, 0.0, 0.5, 0.5)
    assert compute_bounding_box([ring * (0, 1)]) == (0.0, 0.0, 0.0, 0.5)
    assert compute_bounding_box([]) == (0.0, 0.0, 0.0, 0.0)


def test_points_behind_the_camera_are_clipped() -> None:
    tilt = np.array([[1.0, 0, 0], [0, 1.0, 0], [-0.5, 0, 1.0]])  # depth 1 - x/2: behind from x = 2
    square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0], [0.0, 1.0]])
    moved = transform_points(square, tilt, 0.1)
    np.testing.assert_allclose(moved.max(axis=0), [18, 10])  # x = 1.8 at depth 0.1


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("turned", [False, True])
def test_colors_change_wherever_they_are_applied(scale: float, turned: bool) -> None:
    def invert(source: np.ndarray, target: np.ndarray) -> None:
        target[:] = 255 - source

    plan = plan_mosaic(four(64), np.random.default_rng(2), 64)
    matrix = np.array([[scale, 0.2 * turned, 5], [0, scale, 3], [0, 0, 1]])
    plain = compose(plan, matrix, (96, 96)).image
    changed = compose(plan, matrix, (96, 96), recolor=invert).image
    assert np.abs(255 - plain.astype(int) - changed).max() <= 1  # resizing rounds half up, before or after
    again = compose(plan, matrix, (96, 96)).image
    np.testing.assert_array_equal(plain, again)  # the images themselves are untouched
