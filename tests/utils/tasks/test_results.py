"""Result of one image: summary, text lines, crops, drawing; values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from utils.datasets.sources.frames import SourceFrame
from utils.ops.masks import ObjectMasks
from utils.tasks.results import DrawStyle, Result, pluralize

NAMES = {0: "person", 2: "car"}
ROWS = [[10, 20, 30, 60, 0.9, 2], [0, 0, 50, 25, 0.8, 0], [40, 40, 100, 80, 0.55, 2], [5, 5, 9, 9, 0.3, 7]]


def result(rows: list[list[float]], *, number: int | None = None, channels: int = 3) -> Result:
    frame = np.full((80, 100, channels), 50, np.uint8)
    source = SourceFrame("dir/street.v1.jpg", frame, "image 1/2 dir/street.v1.jpg", number)
    return Result(source, np.array(rows, np.float32).reshape(-1, 6), NAMES, (512, 640), (1.0, 23.44, 2.0))


def test_summary_counts_in_the_order_of_class_numbers() -> None:
    assert result(ROWS).summarize() == "1 person, 2 cars, 1 7"
    assert result([]).summarize() == "(no detections)"


def test_plurals() -> None:
    words = ["person", "bus", "cross", "box", "couch", "toothbrush", "knife"]
    assert [pluralize(word) for word in words] == [
        "persons", "buses", "crosses", "boxes", "couches", "toothbrushes", "knifes",
    ]  # fmt: skip
    several = Result(result([]).source, np.array([[0, 0, 1, 1, 0.9, 0]] * 2, np.float32), {0: "cross"})
    assert several.summarize() == "2 crosses"


def test_log_line() -> None:
    assert result(ROWS[:1]).format_log() == "image 1/2 dir/street.v1.jpg: 512x640 1 car, 23.4ms"


def test_text_lines_are_normalized_to_the_image() -> None:
    assert result(ROWS[:2]).to_text_lines() == ["0 0.25 0.15625 0.5 0.3125", "2 0.2 0.5 0.2 0.5"]
    assert result(ROWS[:1]).to_text_lines(with_score=True) == ["2 0.2 0.5 0.2 0.5 0.9"]
    assert result(ROWS[:1]).to_text_lines(with_score=True, corners=True) == ["2 0.1 0.25 0.3 0.75 0.9"]
    assert result([]).to_text_lines() == []


def test_text_lines_are_computed_in_float32() -> None:
    """The sixth digit of a quotient depends on the precision; YOLOv5 divides float32 tensors."""
    frame, rng = np.zeros((1080, 810, 3), np.uint8), np.random.default_rng(0)
    near = rng.integers(0, 400, (200, 2)).astype(np.float32)
    boxes = np.concatenate(
        (near, near + rng.integers(1, 400, (200, 2)), np.full((200, 2), 0.5)), axis=1, dtype=np.float32
    )
    lines = Result(SourceFrame("a.jpg", frame, ""), boxes, NAMES).to_text_lines()[::-1]
    tensors = torch.from_numpy(boxes)
    center, size = (tensors[:, :2] + tensors[:, 2:4]) / 2, tensors[:, 2:4] - tensors[:, :2]
    rows = (torch.cat((center, size), dim=1) / torch.tensor([810.0, 1080, 810, 1080])).tolist()
    assert lines == [" ".join(["0", *(f"{value:g}" for value in row)]) for row in rows]


def test_stem_of_video_frames_has_their_number() -> None:
    assert result([]).stem == "street.v1"
    assert result([], number=12).stem == "street.v1_12"


def test_crops_have_a_margin_and_stay_in_the_image() -> None:
    crops = list(result(ROWS[:2]).extract_crops())
    # 20 x 40 at (20, 40): half sides 15.2 and 25.4 -> 4.8..35.2, 14.6..65.4; 50 x 25: clipped at 0, then 55.5, 30.25
    assert [(label, crop.shape) for label, crop in crops] == [("person", (30, 55, 3)), ("car", (51, 31, 3))]
    assert list(result([]).extract_crops()) == []


def test_crops_have_no_drawings() -> None:
    one = result(ROWS[:1])
    one.draw(DrawStyle())
    assert (next(one.extract_crops())[1] == 50).all()


def test_drawing_does_not_modify_the_image_and_is_cached() -> None:
    one = result(ROWS)
    drawing = one.draw(DrawStyle(line_thickness=2))
    assert (one.source.frame == 50).all()
    assert (drawing != 50).any()
    assert one.draw(DrawStyle(line_thickness=2)) is drawing
    assert one.draw(DrawStyle(line_thickness=2, hide_labels=True)) is not drawing


@pytest.mark.parametrize(
    ("style", "caption"),
    [
        pytest.param(DrawStyle(), "car 0.90", id="default"),
        pytest.param(DrawStyle(hide_conf=True), "car", id="hide-conf"),
        pytest.param(DrawStyle(hide_labels=True), "", id="hide-labels"),
    ],
)
def test_captions(style: DrawStyle, caption: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def draw(frame: np.ndarray, boxes: np.ndarray, labels: list[str], colors: list, **_: object) -> np.ndarray:
        seen.append(labels)
        return frame

    monkeypatch.setattr("utils.tasks.results.draw_boxes", draw)
    result(ROWS[:1]).draw(style)
    assert seen == [[caption]]


@pytest.mark.parametrize("channels", [1, 2, 4, 10])
def test_any_number_of_channels_can_be_drawn(channels: int) -> None:
    assert result(ROWS, channels=channels).draw(DrawStyle()).shape == (80, 100, 3)


def with_mask() -> Result:
    """A car of 20 x 40 pixels at (10, 20), of which the upper half is shown by its mask."""
    one = result(ROWS[:1])
    one.masks = ObjectMasks((80, 100), np.array([[10, 20, 30, 40]]), [np.ones((20, 20), bool)])
    return one


def test_text_lines_of_masks_are_outlines() -> None:
    (line,) = with_mask().to_text_lines(with_score=True, corners=True)
    label, *values = (float(v) for v in line.split())
    points = np.array(values[:-1]).reshape(-1, 2) * (100, 80)
    assert label == 2 and values[-1] == pytest.approx(0.9)
    assert points.min(axis=0).tolist() == pytest.approx([10.5, 20.5]) and points.max(axis=0).tolist() == [29.5, 39.5]


def test_crops_with_masks_are_transparent_around_the_object() -> None:
    ((label, crop),) = with_mask().extract_crops()
    assert label == "car" and crop.shape == (51, 31, 4)
    opaque = crop[..., 3] == 255
    assert opaque.sum() == 400 and opaque[6:26, 6:26].all()  # the cut begins at (4, 14)
    assert (crop[..., :3] == 50).all()


def test_masks_are_drawn_below_boxes() -> None:
    style = DrawStyle(hide_labels=True)
    plain, masked = result(ROWS[:1]).draw(style), with_mask().draw(style)
    assert (masked[30, 20] != 50).any() and (plain[30, 20] == 50).all()
    assert (masked[20, 10] == plain[20, 10]).all()
