from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.config.hyp import Hyperparameters
from utils.core.types import Sample
from utils.datasets.index.image_index import ImageIndex, compute_offsets
from utils.datasets.loader import build_loader
from utils.datasets.semantic import SemanticAugmentation, SemanticDataset, random_color_matrix, rotate_hue

HYP = Hyperparameters()
PLAIN = SemanticAugmentation(96, (64, 96), low=0.4, brightness=0, contrast=0, saturation=0)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """Eight images of noise whose red channel holds the class times 20."""
    folder, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    sizes = [(60, 80), (80, 60), (64, 96), (120, 160)] * 2
    paths, maps = [], []
    for n, size_hw in enumerate(sizes):
        semantic_mask = np.kron(rng.integers(0, 5, (size_hw[0] // 4, size_hw[1] // 4)), np.ones((4, 4))).astype(
            np.uint8
        )
        frame = rng.integers(0, 255, (*size_hw, 3)).astype(np.uint8)
        frame[..., 2] = semantic_mask * 20
        paths.append(str(folder / f"{n}.png"))
        maps.append(str(folder / f"m{n}.png"))
        cv2.imwrite(paths[-1], frame)
        cv2.imwrite(maps[-1], semantic_mask)
    none = np.zeros((0, 4), np.float32)
    return ImageIndex(
        paths, np.array(sizes, np.int32), compute_offsets([0] * 8), np.zeros(0, np.int32), none, semantic_masks=maps
    )


def test_sizes_by_hand() -> None:
    """Base 1024: steps of 32 from ceil(20.8) = 21 to 96, center 32 - 4 = 28; the mean of these is about 1380 px."""
    sides, chances = SemanticAugmentation(1024, (512, 1024), low=0.65, high=3.0, std=25.0).compute_sizes()
    assert (sides[0], sides[-1], len(sides)) == (672, 3072, 76)
    assert chances.sum() == pytest.approx(1)
    assert sides[chances.argmax()] == 28 * 32
    assert chances[(28 - 21) + 25] / chances[28 - 21] == pytest.approx(np.exp(-0.5))
    assert (sides * chances).sum() == pytest.approx(1380, abs=20)
    one, _ = SemanticAugmentation(480, (480, 480), low=1, high=1).compute_sizes()
    assert one.tolist() == [480]


@pytest.mark.parametrize(
    ("sizes", "crop"),
    [
        ([(1024, 2048)] * 9, (256, 512)),
        ([(360, 480)] * 9 + [(480, 360)], (384, 512)),
        ([(480, 360)] * 9, (512, 384)),
        ([(360, 480)] * 5 + [(480, 360)] * 5, (512, 512)),
        ([(224, 224)], (512, 512)),
    ],
)
def test_crops_have_the_shape_of_the_images(sizes: list[tuple[int, int]], crop: tuple[int, int]) -> None:
    suited = SemanticAugmentation.from_images(np.array(sizes), 512, hue=0.1)
    assert suited.crop_hw == crop
    assert (suited.base, suited.hue) == (512, 0.1)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="low"):
        SemanticAugmentation(100, (64, 64), low=2, high=1)


def agreement(sample: Sample) -> float:
    """Share of the labelled pixels that show their class; the blocks are so small that many lie at an edge."""
    assert sample.semantic_mask is not None
    shown = sample.semantic_mask != 255
    near = np.abs(sample.image[..., 2].astype(int) - sample.semantic_mask * 20.0) <= 10
    return float(near[shown].mean())


def test_training_samples(index: ImageIndex) -> None:
    dataset = SemanticDataset(index, imgsz=96, hyp=HYP, augment=True, augmentation=PLAIN)
    sides = set()
    for epoch in range(8):
        for i in range(len(index)):
            sample = dataset[epoch, i]
            assert sample.image.shape == (64, 96, 3)
            assert sample.semantic_mask is not None
            assert sample.semantic_mask.shape == (64, 96)
            assert sample.semantic_mask.dtype == np.uint8
            assert sample.letterbox is None
            assert sample.original_mask is None
            assert sample.boxes_xyxy.shape == (0, 4)
            shown = sample.semantic_mask != 255
            sides.add(int(shown.sum()))
            assert set(np.unique(sample.semantic_mask)) <= {0, 1, 2, 3, 4, 255}
            assert agreement(sample) > 0.6
            assert sample.path == index.paths[i]
    assert len(sides) >= 4  # small images leave borders of several sizes


def test_validation_samples_have_their_original_mask(index: ImageIndex) -> None:
    dataset = SemanticDataset(index, imgsz=96, hyp=HYP, augment=False, rect=True, batch_size=2)
    assert dataset.shapes_hw is not None
    assert dataset.shapes_hw.tolist() == [[64, 96], [96, 96], [96, 96], [96, 96]]  # 72 px of 96 round up to 96
    for i in range(len(index)):
        sample = dataset[i]
        height, width = dataset.index.sizes_hw[i].tolist()
        assert sample.letterbox is not None
        assert sample.letterbox.original_hw == (height, width)
        assert max(height, width) * max(sample.letterbox.ratio_wh) == pytest.approx(96, abs=1)
        assert sample.original_mask is not None
        assert sample.original_mask.shape == (height, width)
        assert sample.semantic_mask is not None
        assert sample.semantic_mask.shape == sample.image.shape[:2]
        left, top = sample.letterbox.pad_wh
        assert (sample.semantic_mask[:top] == 255).all()
        assert (sample.semantic_mask[:, :left] == 255).all()


@pytest.mark.parametrize("mosaic", [False, True])
def test_samples_depend_on_seed_epoch_and_position_only(index: ImageIndex, mosaic: bool) -> None:
    make = lambda seed: SemanticDataset(index, imgsz=96, hyp=HYP, augment=True, mosaic=mosaic, seed=seed)  # noqa: E731
    one, same, other = make(0), copy.deepcopy(make(0)), make(1)
    for key in ((0, 3), (2, 3), (2, 0)):
        np.testing.assert_array_equal(one[key].image, same[key].image)
        np.testing.assert_array_equal(one[key].semantic_mask, same[key].semantic_mask)
        assert not np.array_equal(one[key].image, other[key].image)
    assert not np.array_equal(one[0, 3].image, one[1, 3].image)


@pytest.mark.parametrize("mosaic", [False, True])
def test_batches_do_not_depend_on_the_number_of_workers(index: ImageIndex, mosaic: bool) -> None:
    runs = []
    for workers in (0, 2):
        dataset = SemanticDataset(index, imgsz=96, hyp=HYP, augment=True, augmentation=PLAIN, mosaic=mosaic)
        loader = build_loader(dataset, batch_size=3, workers=workers, shuffle=True)
        loader.set_epoch(2)
        runs.append(list(loader))
    for first, second in zip(*runs, strict=True):
        assert first.paths == second.paths
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.semantic_masks, second.semantic_masks)
        assert first.original_masks is None
    assert len({path for batch in runs[0] for path in batch.paths}) == 8


def test_validation_batches_have_original_masks(index: ImageIndex) -> None:
    dataset = SemanticDataset(index, imgsz=96, hyp=HYP, augment=False, rect=True, batch_size=3)
    for workers in (0, 2):
        batches = list(build_loader(dataset, batch_size=3, workers=workers))
        assert sum(len(batch) for batch in batches) == 8
        for batch in batches:
            assert batch.original_masks is not None
            assert batch.semantic_masks is not None
            assert batch.semantic_masks.shape == (len(batch), *batch.images.shape[2:])
            for path, semantic_mask, fit in zip(batch.paths, batch.original_masks, batch.letterboxes, strict=True):
                assert fit is not None
                assert tuple(semantic_mask.shape) == fit.original_hw
                np.testing.assert_array_equal(
                    semantic_mask, cv2.imread(path.replace(Path(path).name, f"m{Path(path).name}"), 0)
                )


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts(index: ImageIndex, tmp_path: Path, channels: int) -> None:
    paths = []
    for path in index.paths:
        paths.append(str(tmp_path / f"{Path(path).stem}.npy"))
        np.save(paths[-1], cv2.imread(path)[..., 2:].repeat(channels, axis=2))
    many = replace(index, paths=paths)
    for augment in (True, False):
        dataset = SemanticDataset(many, imgsz=96, hyp=HYP, augment=augment, mosaic=True, channels=channels)
        assert dataset[0, 0].image.shape[2] == channels


def test_mosaic_shows_several_images(index: ImageIndex) -> None:
    hyp = replace(HYP, mosaic=1.0, fliplr=0)
    dataset = SemanticDataset(index, imgsz=96, hyp=hyp, augment=True, augmentation=PLAIN, mosaic=True)
    never = SemanticDataset(
        index, imgsz=96, hyp=replace(hyp, mosaic=0.0), augment=True, augmentation=PLAIN, mosaic=True
    )
    alone = SemanticDataset(index, imgsz=96, hyp=hyp, augment=True, augmentation=PLAIN)
    reads: list[int] = []
    for made in (dataset, never, alone):
        original = made.load_pixels
        made.load_pixels = lambda i, longest, original=original: (reads.append(i), original(i, longest))[1]  # type: ignore[method-assign]
    for i in range(8):
        assert dataset[1, i].semantic_mask.shape == (64, 96)  # type: ignore[union-attr]
    assert len(reads) > 16
    reads.clear()
    for made in (never, alone):
        for i in range(8):
            made[1, i]
    assert reads == [*range(8)] * 2


def test_the_last_epochs_may_be_without_mosaics(index: ImageIndex) -> None:
    hyp = replace(HYP, mosaic=1.0)
    options = {"imgsz": 96, "hyp": hyp, "augment": True, "mosaic": True}
    closing, always = SemanticDataset(index, **options, mosaic_epochs=2), SemanticDataset(index, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(closing[1, 0].image, always[1, 0].image)
    assert not np.array_equal(closing[2, 0].image, always[2, 0].image)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_cached_images_match_their_masks(index: ImageIndex, cache: str) -> None:
    dataset = SemanticDataset(index, imgsz=96, hyp=HYP, augment=True, augmentation=PLAIN, cache=cache)
    assert dataset.cache is not None
    for i in range(8):
        assert agreement(dataset[0, i]) > 0.6


def test_images_are_read_at_the_required_size(index: ImageIndex) -> None:
    large = SemanticAugmentation(96, (64, 96), low=2, high=2)
    assert SemanticDataset(index, imgsz=96, hyp=HYP, augment=True, augmentation=large).longest == 160  # none is larger
    assert SemanticDataset(index, imgsz=96, hyp=HYP, augment=False).longest == 96


class TestColors:
    def test_no_change(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        matrix = random_color_matrix(np.random.default_rng(0), PLAIN, image)
        np.testing.assert_array_equal(cv2.transform(image, matrix), image)

    def test_each_by_hand(self) -> None:
        image = np.full((2, 2, 3), (40, 80, 120), np.uint8)  # luma 4.56 + 46.96 + 35.88 = 87.4
        draws = np.random.default_rng(5).uniform(-1, 1, 3)
        make = lambda **strength: random_color_matrix(np.random.default_rng(5), replace(PLAIN, **strength), image)  # noqa: E731
        values = np.array([40, 80, 120, 1.0])
        np.testing.assert_allclose(make(brightness=0.5) @ values, values[:3] * (1 + 0.5 * draws[0]))
        around_mean = 87.4 + (1 + 0.5 * draws[1]) * (values[:3] - 87.4)
        np.testing.assert_allclose(make(contrast=0.5) @ values, around_mean)
        around_own = 87.4 + (1 + 0.5 * draws[2]) * (values[:3] - 87.4)
        np.testing.assert_allclose(make(saturation=0.5) @ values, around_own)

    def test_hue_rotation_keeps_gray_and_luma_and_is_cyclic(self) -> None:
        color = np.array([30.0, 90.0, 200.0])
        luma = np.array([0.114, 0.587, 0.299])
        for angle in (0.3, -1.0, np.pi):
            np.testing.assert_allclose(rotate_hue(angle) @ [77.0, 77.0, 77.0], [77.0] * 3)
            assert luma @ rotate_hue(angle) @ color == pytest.approx(luma @ color)
            np.testing.assert_allclose(rotate_hue(-angle) @ rotate_hue(angle) @ color, color)
        red, green, blue = (np.array(c, float) for c in ([0, 0, 200], [0, 200, 0], [200, 0, 0]))
        third = rotate_hue(2 * np.pi / 3)
        for start, end in ((red, green), (green, blue), (blue, red)):
            assert (third @ start).argmax() == end.argmax()

    def test_together_they_equal_one_after_the_other(self) -> None:
        """Applied to floating images, one operation at a time, without rounding or cutting off."""
        image = np.random.default_rng(1).integers(60, 190, (6, 7, 3)).astype(np.uint8)
        strengths = replace(PLAIN, brightness=0.2, contrast=0.3, saturation=0.4, hue=0.1)
        for seed in range(6):
            rng = np.random.default_rng(seed)
            gains, turn = 1 + rng.uniform(-1, 1, 3) * (0.2, 0.3, 0.4), 2 * np.pi * 0.1 * rng.uniform(-1, 1)
            out, luma = image.astype(float), np.array([0.114, 0.587, 0.299])
            for number in rng.permutation(4):
                gray = (out @ luma)[..., None]
                if number == 0:
                    out = out * gains[0]
                elif number == 1:
                    out = gray.mean() + gains[1] * (out - gray.mean())
                elif number == 2:
                    out = gray + gains[2] * (out - gray)
                else:
                    out = out @ rotate_hue(turn).T
            matrix = random_color_matrix(np.random.default_rng(seed), strengths, image)
            ours = image.astype(float) @ matrix[:, :3].T + matrix[:, 3]
            np.testing.assert_allclose(ours, out, atol=1e-6)

    def test_samples_change_color_and_keep_their_masks(self, index: ImageIndex) -> None:
        strong = replace(PLAIN, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        plain, changed = (
            SemanticDataset(index, imgsz=96, hyp=replace(HYP, fliplr=0), augment=True, augmentation=a)
            for a in (PLAIN, strong)
        )
        np.testing.assert_array_equal(plain[0, 2].semantic_mask, changed[0, 2].semantic_mask)
        assert np.abs(plain[0, 2].image.astype(int) - changed[0, 2].image).mean() > 3


def test_cutmix_and_the_end_of_mosaics(index: ImageIndex) -> None:
    """Image and semantic mask are cut along one line; the last epochs are those of a set without mosaics."""
    hyp = replace(HYP, mosaic=1.0, cutmix=1.0, fliplr=0.0, flipud=0.0)
    make = lambda hyp, **options: SemanticDataset(  # noqa: E731
        index, imgsz=96, hyp=hyp, augment=True, augmentation=PLAIN, mosaic=True, **options
    )
    closing, alone = make(hyp, mosaic_epochs=1), make(replace(hyp, mosaic=0.0))
    uncut = make(replace(hyp, mosaic=0.0, cutmix=0.0))
    for i in range(len(index)):
        assert np.array_equal(closing[1, i].semantic_mask, alone[1, i].semantic_mask)
        assert np.array_equal(alone[1, i].semantic_mask, alone[1, i].semantic_mask)
        assert agreement(alone[1, i]) > 0.6
        changed = (alone[1, i].image != uncut[1, i].image).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        outside = np.ones_like(changed)
        if len(rows):
            outside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
        assert np.array_equal(alone[1, i].semantic_mask[outside], uncut[1, i].semantic_mask[outside])
    assert any(not np.array_equal(closing[0, i].image, alone[0, i].image) for i in range(len(index)))
    assert any(not np.array_equal(alone[1, i].semantic_mask, uncut[1, i].semantic_mask) for i in range(len(index)))
