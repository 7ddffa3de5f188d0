from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest

from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.types import Sample
from utils.datasets.augment.albumentations import LIGHT_SET, LightPipeline, UserPipeline
from utils.datasets.augment.transforms import (
    flip,
    mixup,
    multiply_hsv,
    random_flips,
    random_recolor,
    random_transform,
)

albumentations = pytest.importorskip("albumentations", reason="Albumentations is optional")


def sample(size_hw: tuple[int, int] = (20, 30), channels: int = 3) -> Sample:
    """Noise with one object whose pixels, box, polygon and semantic mask agree: x 4-10, y 2-8."""
    image = np.random.default_rng(0).integers(0, 200, (*size_hw, channels), dtype=np.uint8)
    image[2:8, 4:10] = 255
    semantic_mask = (image == 255).all(axis=2).astype(np.uint8)
    ring = np.array([[4.0, 2], [10, 2], [10, 8], [4, 8]])
    return Sample(image, np.array([[4, 2, 10, 8]], np.float32), np.array([3]), [[ring]], semantic_mask, "a.png")


def run(pipeline: LightPipeline | UserPipeline, given: Sample, seed: int = 0) -> Sample:
    for effect in pipeline.select(np.random.default_rng(seed)):
        given = effect(given)
    return given


def object_box(image: np.ndarray) -> list[int]:
    rows, columns = np.nonzero((image == 255).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("axis", "box"),
    [(0, [20, 2, 26, 8]), (1, [4, 12, 10, 18])],
    ids=["left-right", "up-down"],
)
@pytest.mark.parametrize("channels", [1, 3, 10])
def test_flips_move_all_parts(axis: int, box: list[int], channels: int) -> None:
    out = flip(sample(channels=channels), axis=axis)
    assert out.boxes_xyxy.tolist() == [box]
    assert object_box(out.image) == box
    assert out.semantic_mask[box[1] : box[3], box[0] : box[2]].all()
    assert out.semantic_mask.sum() == 36
    ring = out.polygons[0][0]
    assert [*ring.min(axis=0), *ring.max(axis=0)] == box
    assert out.image.shape == (20, 30, channels)


def test_flips_of_an_empty_sample() -> None:
    empty = Sample(np.zeros((4, 6, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert flip(empty, axis=0).boxes_xyxy.shape == (0, 4)


def test_random_flips_follow_their_probabilities() -> None:
    both = Hyperparameters(flipud=1.0, fliplr=1.0)
    assert random_flips(sample(), np.random.default_rng(0), both).boxes_xyxy.tolist() == [[20, 12, 26, 18]]
    none = Hyperparameters(flipud=0.0, fliplr=0.0)
    assert random_flips(sample(), np.random.default_rng(0), none).boxes_xyxy.tolist() == [[4, 2, 10, 8]]


@pytest.mark.parametrize(
    ("bgr", "gains", "expected"),
    [
        pytest.param([0, 0, 200], [1, 1, 0.5], [0, 0, 100], id="half as bright"),
        pytest.param([0, 0, 200], [1, 1, 2.0], [0, 0, 255], id="saturates"),
        pytest.param([100, 100, 200], [1, 2.0, 1], [0, 0, 200], id="purer"),  # saturation 128 of 255 -> 255
        pytest.param([200, 0, 0], [1.25, 1, 1], [200, 0, 200], id="blue, 120 of 180, to magenta, 150"),
        pytest.param([67, 0, 200], [1.4, 1, 1], [0, 200, 13], id="170 to 238, which is 58, green"),
        pytest.param([90, 90, 90], [1.4, 0.1, 1], [90, 90, 90], id="gray has no hue"),
    ],
)
def test_hsv_gains_by_hand(bgr: list[int], gains: list[float], expected: list[int]) -> None:
    image = np.full((3, 5, 3), bgr, np.uint8)
    multiply_hsv(image, image, gains=np.array(gains, float))
    np.testing.assert_allclose(image, np.full((3, 5, 3), expected), atol=1)


def test_gains_without_visible_change_are_skipped() -> None:
    assert random_recolor(np.random.default_rng(0), Hyperparameters(hsv_h=0.002, hsv_s=0.001, hsv_v=0.001)) is None
    assert random_recolor(np.random.default_rng(0), Hyperparameters(hsv_h=0, hsv_s=0, hsv_v=0)) is None
    assert random_recolor(np.random.default_rng(0), Hyperparameters()) is not None


def test_hue_gain_too_large_for_a_byte_keeps_the_cycle() -> None:
    image = np.full((1, 1, 3), [20, 0, 200], np.uint8)  # hue 177 of 180
    multiply_hsv(image, image, gains=np.array([1.9, 1, 1]))  # ends at 255, which is 75: green with a little blue
    assert image[0, 0].argmax() == 1


def test_mixup_blends_and_keeps_all_labels() -> None:
    dark, bright = sample(), sample()
    dark.image[:], bright.image[:] = 0, 200
    bright.semantic_mask = np.full((20, 30), 7, np.uint8)
    share = np.random.default_rng(0).beta(32, 32)
    out = mixup(dark, bright, np.random.default_rng(0))
    assert (out.image == round(200 * (1 - share))).all()
    assert out.boxes_xyxy.shape == (2, 4)
    assert out.classes.tolist() == [3, 3]
    assert out.polygons is not None
    assert len(out.polygons) == 2
    assert out.semantic_mask is (dark.semantic_mask if share >= 0.5 else bright.semantic_mask)


def test_transform_maps_center_to_random_translation() -> None:
    hyp = Hyperparameters(degrees=90, scale=0.5, translate=0.1, shear=5)
    for seed in range(20):
        matrix = random_transform(np.random.default_rng(seed), hyp, (100, 200), (50, 60))
        x, y, depth = matrix @ [100, 50, 1]
        assert depth == pytest.approx(1)
        assert 0.4 * 60 <= x <= 0.6 * 60
        assert 0.4 * 50 <= y <= 0.6 * 50


def test_transform_is_the_product_of_its_steps() -> None:
    hyp = Hyperparameters(degrees=20, scale=0.3, translate=0.2, shear=7, perspective=0.001)
    d = np.random.default_rng(4).uniform(-1, 1, 8)
    turn, scale = np.radians(20 * d[2]), 1 + 0.3 * d[3]
    center = np.array([[1, 0, -100], [0, 1, -50], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [0.001 * d[0], 0.001 * d[1], 1]])
    rotate = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1 / scale]]) * scale
    slant = np.array([[1, np.tan(np.radians(7 * d[4])), 0], [np.tan(np.radians(7 * d[5])), 1, 0], [0, 0, 1]])
    place = np.array([[1, 0, (0.5 + 0.2 * d[6]) * 60], [0, 1, (0.5 + 0.2 * d[7]) * 50], [0, 0, 1]])
    matrix = random_transform(np.random.default_rng(4), hyp, (100, 200), (50, 60))
    np.testing.assert_allclose(matrix, place @ slant @ rotate @ tilt @ center, atol=1e-12)


def test_transform_scales_by_hand() -> None:
    hyp = Hyperparameters(degrees=0, scale=0.5, translate=0)
    scales = [random_transform(np.random.default_rng(s), hyp, (100, 100), (50, 50))[0, 0] for s in range(200)]
    assert 0.5 <= min(scales) < 0.55
    assert 1.45 < max(scales) <= 1.5


class TestAlbumentations:
    def test_light_set_probability(self) -> None:
        pipeline, original = LightPipeline(), sample()
        changed = sum(bool((run(pipeline, sample(), seed).image != original.image).any()) for seed in range(500))
        assert 5 <= changed <= 45  # 20 expected

    @pytest.mark.parametrize("n", range(len(LIGHT_SET)))
    def test_each_of_the_light_set_changes_the_image(self, n: int) -> None:
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
        out = given
        for effect in LightPipeline().select(Always()):  # type: ignore[arg-type]
            out = effect(out)
        assert out.image.shape == image.shape
        assert (out.image != image).any()

    def test_user_pipeline_transforms_all_labels(self) -> None:
        pipeline = UserPipeline(albumentations.to_dict(albumentations.Compose([albumentations.HorizontalFlip(p=1)])))
        out = run(pipeline, sample())
        assert out.boxes_xyxy.tolist() == [[20, 2, 26, 8]]
        assert object_box(out.image) == [20, 2, 26, 8]
        assert out.semantic_mask is not None
        assert out.semantic_mask[2:8, 20:26].all()
        assert out.polygons is not None
        np.testing.assert_allclose(out.polygons[0][0].min(axis=0), [20, 2], atol=1e-4)
        assert out.classes.tolist() == [3]

    def test_user_pipeline_drops_objects_outside_the_image(self) -> None:
        move = albumentations.Affine(translate_px={"x": -25, "y": 0}, p=1)
        out = run(UserPipeline(albumentations.to_dict(move)), sample())
        assert out.boxes_xyxy.shape == (0, 4)
        assert out.classes.shape == (0,)
        assert out.polygons == []

    def test_user_pipeline_without_boxes(self) -> None:
        given = Sample(sample().image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        out = run(UserPipeline(albumentations.to_dict(albumentations.VerticalFlip(p=1))), given)
        assert out.boxes_xyxy.shape == (0, 4)
        assert out.polygons is None

    def test_same_generator_same_image(self) -> None:
        pipeline = UserPipeline(albumentations.to_dict(albumentations.GaussNoise(p=0.5)))
        first = [run(pipeline, sample(), s).image for s in range(6)]
        second = [run(pipeline, sample(), s).image for s in reversed(range(6))][::-1]
        np.testing.assert_array_equal(first, second)
        assert (first[0] != first[1]).any() or (first[1] != first[2]).any()

    @pytest.mark.parametrize(
        ("serialized", "message"),
        [
            ({}, "expected a mapping from albumentations.to_dict"),
            ({"transform": {"__class_fullname__": "os.system"}}, "has no transform 'os.system'"),
            ({"transform": {"__class_fullname__": "Flipp", "p": 1}}, "has no transform 'Flipp'"),
            ({"transform": {"__class_fullname__": "Compose", "transforms": [3]}}, "3 is not a serialized transform"),
            ({"transform": {"__class_fullname__": "Compose", "transforms": 3}}, "must be a list"),
            (
                {
                    "transform": {
                        "__class_fullname__": "Compose",
                        "transforms": [{"__class_fullname__": "load", "p": 1}],
                    }
                },
                "has no transform 'load'",
            ),
        ],
    )
    def test_invalid_pipelines_are_refused(self, serialized: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            UserPipeline(serialized)

    def test_change_of_size_is_refused(self) -> None:
        pipeline = UserPipeline(albumentations.to_dict(albumentations.Resize(8, 8, p=1)))
        with pytest.raises(InputError, match=r"changes the image size from \(20, 30\) to \(8, 8\)"):
            run(pipeline, sample())

    def test_pipelines_reach_spawned_workers_without_update_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
        user = UserPipeline(albumentations.to_dict(albumentations.GaussNoise(p=1)))
        assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
        copy, light = pickle.loads(pickle.dumps(user)), pickle.loads(pickle.dumps(LightPipeline()))
        np.testing.assert_array_equal(run(copy, sample()).image, run(user, sample()).image)
        for seed in range(100):
            expected = run(LightPipeline(), sample(), seed).image
            np.testing.assert_array_equal(run(light, sample(), seed).image, expected)

    def test_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "albumentations", None)
        with pytest.raises(InputError, match="pip install"):
            UserPipeline({"transform": {}})
