from __future__ import annotations

import os
import sys

import cv2
import numpy as np
import pytest

from utils.datasets.albumentations_pipeline import LIGHT_SET, LightPipeline, UserPipeline, no_update_check
from utils.datasets.augment import (
    apply_hsv_table_,
    flip_horizontal,
    flip_vertical,
    hsv_table,
    jitter_colours,
    mixup,
    random_flips,
    random_transform,
)
from utils.errors import InputError
from utils.hyp import Hyperparameters
from utils.types import Sample

albumentations = pytest.importorskip("albumentations", reason="Albumentations is optional")


def sample(size_hw: tuple[int, int] = (20, 30), channels: int = 3) -> Sample:
    """Noise with one object whose pixels, box, polygon and class map agree: x 4-10, y 2-8."""
    image = np.random.default_rng(0).integers(0, 200, (*size_hw, channels), dtype=np.uint8)
    image[2:8, 4:10] = 255
    class_map = (image == 255).all(axis=2).astype(np.uint8)
    ring = np.array([[4.0, 2], [10, 2], [10, 8], [4, 8]])
    return Sample(image, np.array([[4, 2, 10, 8]], np.float32), np.array([3]), [[ring]], class_map, "a.png")


def object_box(image: np.ndarray) -> list[int]:
    rows, columns = np.nonzero((image == 255).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("flip", "box"),
    [(flip_horizontal, [20, 2, 26, 8]), (flip_vertical, [4, 12, 10, 18])],
    ids=["left-right", "up-down"],
)
@pytest.mark.parametrize("channels", [1, 3, 10])
def test_flips_move_all_parts(flip: object, box: list[int], channels: int) -> None:
    out = flip(sample(channels=channels))  # type: ignore[operator]
    assert out.boxes_xyxy.tolist() == [box]
    assert object_box(out.image) == box
    assert out.class_map[box[1] : box[3], box[0] : box[2]].all()
    assert out.class_map.sum() == 36
    ring = out.polygons[0][0]
    assert [*ring.min(axis=0), *ring.max(axis=0)] == box
    assert out.image.shape == (20, 30, channels)


def test_flips_of_an_empty_sample() -> None:
    empty = Sample(np.zeros((4, 6, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert flip_horizontal(empty).boxes_xyxy.shape == (0, 4)


def test_random_flips_follow_their_chances() -> None:
    both = Hyperparameters(flipud=1.0, fliplr=1.0)
    assert random_flips(sample(), np.random.default_rng(0), both).boxes_xyxy.tolist() == [[20, 12, 26, 18]]
    none = Hyperparameters(flipud=0.0, fliplr=0.0)
    assert random_flips(sample(), np.random.default_rng(0), none).boxes_xyxy.tolist() == [[4, 2, 10, 8]]


def test_hsv_table_by_hand() -> None:
    table = hsv_table(np.array([1.5, 2.0, 0.5]))[0]
    assert table[100].tolist() == [150, 200, 50]
    assert table[150].tolist() == [45, 255, 75]  # 225 mod 180, 300 saturates


@pytest.mark.parametrize("size_hw", [(200, 33), (64, 64), (1, 1)])
def test_strips_equal_the_whole_picture(size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    table = hsv_table(np.array([1.01, 0.6, 1.3]))
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    channels = [table[0, :, c][hsv[..., c]] for c in range(3)]
    plain = cv2.cvtColor(np.dstack(channels), cv2.COLOR_HSV2BGR)
    apply_hsv_table_(image, table)
    np.testing.assert_array_equal(image, plain)


def test_colours_leave_other_channel_counts_and_zero_strengths() -> None:
    for hyp, channels in ((Hyperparameters(), 4), (Hyperparameters(hsv_h=0, hsv_s=0, hsv_v=0), 3)):
        out = jitter_colours(sample(channels=channels), np.random.default_rng(0), hyp)
        np.testing.assert_array_equal(out.image, sample(channels=channels).image)
    changed = jitter_colours(sample(), np.random.default_rng(0), Hyperparameters())
    assert (changed.image != sample().image).any()


def test_mixup_blends_and_keeps_all_labels() -> None:
    dark, bright = sample(), sample()
    dark.image[:], bright.image[:] = 0, 200
    bright.class_map = np.full((20, 30), 7, np.uint8)
    share = np.random.default_rng(0).beta(32, 32)
    out = mixup(dark, bright, np.random.default_rng(0))
    assert (out.image == round(200 * (1 - share))).all()
    assert out.boxes_xyxy.shape == (2, 4)
    assert out.classes.tolist() == [3, 3]
    assert out.polygons is not None
    assert len(out.polygons) == 2
    assert out.class_map is (dark.class_map if share >= 0.5 else bright.class_map)


def test_transform_maps_centre_to_the_drawn_place() -> None:
    hyp = Hyperparameters(degrees=90, scale=0.5, translate=0.1, shear=5)
    for seed in range(20):
        matrix = random_transform(np.random.default_rng(seed), hyp, (100, 200), (50, 60))
        x, y, depth = matrix @ [100, 50, 1]
        assert depth == 1
        assert 0.4 * 60 <= x <= 0.6 * 60
        assert 0.4 * 50 <= y <= 0.6 * 50


def test_transform_scales_by_hand() -> None:
    hyp = Hyperparameters(degrees=0, scale=0.5, translate=0)
    scales = [random_transform(np.random.default_rng(s), hyp, (100, 100), (50, 50))[0, 0] for s in range(200)]
    assert 0.5 <= min(scales) < 0.55
    assert 1.45 < max(scales) <= 1.5


class TestAlbumentations:
    def test_light_set_fires_on_one_in_a_hundred(self) -> None:
        pipeline, original = LightPipeline(), sample()
        changed = sum(
            bool((pipeline(sample(), np.random.default_rng(seed)).image != original.image).any()) for seed in range(500)
        )
        assert 5 <= changed <= 45  # 20 expected

    @pytest.mark.parametrize("n", range(len(LIGHT_SET)))
    def test_each_of_the_light_set_changes_the_picture(self, n: int) -> None:
        class Always:
            """Draws that let transform n fire and no other."""

            def random(self, count: int) -> np.ndarray:
                return np.where(np.arange(count) == n, 0.0, 1.0)

            def integers(self, high: int) -> int:
                return 1

        smooth = np.repeat(np.linspace(0, 120, 64).astype(np.uint8)[None], 64, axis=0)
        image = np.dstack([smooth, smooth.T, smooth])
        image[::5, ::5] = 255
        given = Sample(image.copy(), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        out = LightPipeline()(given, Always())  # type: ignore[arg-type]
        assert out.image.shape == image.shape
        assert (out.image != image).any()

    def test_user_pipeline_moves_everything(self) -> None:
        pipeline = UserPipeline(albumentations.to_dict(albumentations.Compose([albumentations.HorizontalFlip(p=1)])))
        out = pipeline(sample(), np.random.default_rng(0))
        assert out.boxes_xyxy.tolist() == [[20, 2, 26, 8]]
        assert object_box(out.image) == [20, 2, 26, 8]
        assert out.class_map is not None
        assert out.class_map[2:8, 20:26].all()
        assert out.polygons is not None
        np.testing.assert_allclose(out.polygons[0][0].min(axis=0), [20, 2], atol=1e-4)
        assert out.classes.tolist() == [3]

    def test_user_pipeline_drops_what_left_the_picture(self) -> None:
        move = albumentations.Affine(translate_px={"x": -25, "y": 0}, p=1)
        out = UserPipeline(albumentations.to_dict(move))(sample(), np.random.default_rng(0))
        assert out.boxes_xyxy.shape == (0, 4)
        assert out.classes.shape == (0,)
        assert out.polygons == []

    def test_user_pipeline_without_boxes(self) -> None:
        given = Sample(sample().image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        out = UserPipeline(albumentations.to_dict(albumentations.VerticalFlip(p=1)))(given, np.random.default_rng(0))
        assert out.boxes_xyxy.shape == (0, 4)
        assert out.polygons is None

    def test_same_generator_same_picture(self) -> None:
        pipeline = UserPipeline(albumentations.to_dict(albumentations.GaussNoise(p=0.5)))
        first = [pipeline(sample(), np.random.default_rng(s)).image for s in range(6)]
        second = [pipeline(sample(), np.random.default_rng(s)).image for s in reversed(range(6))][::-1]
        np.testing.assert_array_equal(first, second)
        assert (first[0] != first[1]).any() or (first[1] != first[2]).any()

    @pytest.mark.parametrize(
        ("serialized", "message"),
        [
            ({}, "expected the mapping that albumentations.to_dict gives"),
            ({"transform": {"__class_fullname__": "os.system"}}, "'os.system' is no transform"),
            ({"transform": {"__class_fullname__": "Flipp", "p": 1}}, "'Flipp' is no transform"),
            ({"transform": {"__class_fullname__": "Compose", "transforms": [3]}}, "3 is not a serialized transform"),
            ({"transform": {"__class_fullname__": "Compose", "transforms": 3}}, "must be a list"),
            (
                {
                    "transform": {
                        "__class_fullname__": "Compose",
                        "transforms": [{"__class_fullname__": "load", "p": 1}],
                    }
                },
                "'load' is no transform",
            ),
        ],
    )
    def test_other_things_than_transforms_are_refused(self, serialized: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            UserPipeline(serialized)

    def test_change_of_size_is_refused(self) -> None:
        pipeline = UserPipeline(albumentations.to_dict(albumentations.Resize(8, 8, p=1)))
        with pytest.raises(InputError, match=r"turns \(20, 30\) into \(8, 8\)"):
            pipeline(sample(), np.random.default_rng(0))

    def test_update_check_is_off_only_while_importing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
        with no_update_check():
            assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
        assert "NO_ALBUMENTATIONS_UPDATE" not in os.environ

    def test_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "albumentations", None)
        with pytest.raises(InputError, match="pip install"):
            UserPipeline({"transform": {}})
