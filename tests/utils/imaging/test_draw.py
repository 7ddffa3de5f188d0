from __future__ import annotations

import numpy as np
import pytest

from utils.imaging import draw as drawing
from utils.imaging.draw import class_color_bgr, draw_boxes, draw_masks, draw_text, text_color, text_height, to_bgr
from utils.ops.masks import ObjectMasks

RED = (0, 0, 255)


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def changed(frame: np.ndarray) -> np.ndarray:
    return (frame != 90).any(axis=2)


def test_class_colors_are_stable_and_distinct() -> None:
    colors = [class_color_bgr(i) for i in range(200)]
    assert len(set(colors)) == 200
    assert class_color_bgr(0) == (36, 36, 242)  # hue 0, saturation 0.85, value 0.95: 242 * 0.15 = 36
    assert all(0 <= x <= 255 for color in colors for x in color)


@pytest.mark.parametrize(
    ("color", "expected"),
    [((255, 255, 255), (0, 0, 0)), ((0, 0, 0), (255, 255, 255)), ((0, 255, 0), (0, 0, 0)), ((255, 0, 0), (255,) * 3)],
)
def test_text_color(color: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    assert text_color(color) == expected


def test_box_without_label_is_its_outline() -> None:
    frame = gray(40, 60)
    assert draw_boxes(frame, [[10, 5, 30, 25]], [""], [RED], line_thickness=1) is frame
    expected = np.zeros((40, 60), bool)
    expected[5:26, 10:31] = True
    expected[6:25, 11:30] = False
    np.testing.assert_array_equal(changed(frame), expected)
    assert (frame[5, 10] == RED).all()


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), np.zeros((0, 4), np.float32)])
def test_no_boxes_leave_the_image(boxes: object) -> None:
    frame = gray(20, 20)
    draw_boxes(frame, boxes, [], [])  # type: ignore[arg-type]
    assert not changed(frame).any()


def label_place(
    monkeypatch: pytest.MonkeyPatch, size_hw: tuple[int, int], boxes: list[list[float]], labels: list[str]
) -> list[tuple[int, int, int, int]]:
    places: list[tuple[int, int, int, int]] = []
    monkeypatch.setattr(drawing, "_draw_plate", lambda frame, plate, place, color: places.append(place))
    draw_boxes(gray(*size_hw), boxes, labels, [RED] * len(boxes))
    return places


@pytest.mark.parametrize("size_hw", [(480, 640), (40, 400), (400, 60), (3000, 4000)])
@pytest.mark.parametrize(
    "relative", [(0, 0, 1, 1), (0.9, 0, 1, 0.1), (0.4, 0.9, 0.6, 1), (0.99, 0.99, 1, 1), (-1, -1, 2, 2)]
)
def test_label_lies_in_the_image(
    monkeypatch: pytest.MonkeyPatch, size_hw: tuple[int, int], relative: tuple[float, ...]
) -> None:
    height, width = size_hw
    box = [x * side for x, side in zip(relative, (width, height, width, height), strict=True)]
    ((x1, y1, x2, y2),) = label_place(monkeypatch, size_hw, [box], ["person"])
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height


def test_label_sits_above_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    ((x1, _, _, y2),) = label_place(monkeypatch, (300, 300), [[100, 100, 200, 200]], ["cat"])
    assert (x1, y2) == (100, 100)  # line of one pixel


def test_labels_of_equal_boxes_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    places = label_place(monkeypatch, (300, 300), [[100, 100, 200, 200]] * 4, ["cat", "dog", "cow", "hen"])
    cover = np.zeros((300, 300), int)
    for x1, y1, x2, y2 in places:
        cover[y1:y2, x1:x2] += 1
    assert cover.max() == 1


def test_labels_keep_clear_of_places_to_avoid() -> None:
    frame = gray(200, 200)
    draw_boxes(frame, [[20, 30, 150, 150]], ["cat"], [RED], avoid=[(0, 0, 200, 35)])
    assert not changed(frame)[:29].any()


def test_text_grows_with_the_image() -> None:
    assert [text_height(size) for size in ((32, 32), (480, 640), (1080, 1920), (3000, 4000), (20000, 20000))] == [
        9,
        14,
        38,
        88,
        160,
    ]


def test_label_wider_than_the_image_is_shrunk_then_cut() -> None:
    frame = gray(30, 30)
    draw_boxes(frame, [[2, 2, 28, 28]], ["a very long class name 0.87"], [RED])
    assert frame.shape == (30, 30, 3)
    assert changed(frame).any()


def test_draw_text_outside_changes_nothing() -> None:
    frame = gray(20, 20)
    draw_text(frame, "x", (50, 50), 10, RED)
    draw_text(frame, "x", (-500, 0), 10, RED)
    assert not changed(frame).any()


def test_draw_text_returns_its_place() -> None:
    frame = gray(60, 200)
    x1, y1, x2, y2 = draw_text(frame, "name.jpg", (5, 7), 12, RED)
    rows, columns = np.nonzero(changed(frame))
    assert (x1, y1, x2, y2) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_to_bgr_from_any_number_of_channels() -> None:
    flat = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for frame in (flat, flat[..., None], np.stack([flat, flat + 1], axis=2)):
        np.testing.assert_array_equal(to_bgr(frame), np.stack([flat] * 3, axis=2))
    five = np.stack([flat + i for i in range(5)], axis=2)
    np.testing.assert_array_equal(to_bgr(five), five[..., :3])
    bgr = to_bgr(five[..., :3][::-1])
    assert bgr.flags.c_contiguous
    assert not np.shares_memory(bgr, five)


def test_masks_tint_objects_and_outline_them_small_ones_on_top() -> None:
    frame = gray(20, 30)
    large, small = np.ones((12, 16), bool), np.ones((4, 4), bool)
    large[:, 8:] = False
    masks = ObjectMasks((20, 30), np.array([[6, 6, 10, 10], [2, 2, 18, 14]]), [small, large])
    blue = (255, 0, 0)
    assert draw_masks(frame, masks, [RED, blue]) is frame
    assert (changed(frame)[2:14, 2:10]).all() and changed(frame).sum() == 12 * 8
    assert frame[7, 7].tolist() != frame[4, 4].tolist()
    assert frame[2, 2].tolist() == list(blue) and frame[6, 6].tolist() == list(RED)  # outlines
    assert frame[4, 4, 0] > 90 > frame[4, 4, 2]
    assert frame[8, 8, 2] > frame[8, 8, 0]
    flat = draw_masks(gray(20, 30), masks.select([1]), [blue], line_thickness=0)
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 2


def test_empty_mask_draws_nothing() -> None:
    masks = ObjectMasks((20, 30), np.array([[6, 6, 6, 6]]), [np.zeros((0, 0), bool)])
    assert not changed(draw_masks(gray(20, 30), masks, [RED])).any()
