from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.config.hyp import Hyperparameters
from utils.datasets.detection import EPOCH_REPEAT, DetectionDataset, read_semantic_mask
from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.datasets.index.tiles import tile_index
from utils.imaging.read import ImageError

PLAIN = Hyperparameters(
    hsv_h=0,
    hsv_s=0,
    hsv_v=0,
    degrees=0,
    translate=0,
    scale=0,
    fliplr=0,
    mosaic=0,
    albumentations={"transform": {"__class_fullname__": "NoOp", "p": 1.0}},
)


def make_index(
    folder: Path, sizes_hw: list[tuple[int, int]], *, polygons: bool = False, maps: bool = False
) -> ImageIndex:
    """Images of gray 50 with one white block on the middle half of each; class = position. The last has none."""
    paths, semantic_masks = [], []
    for n, (height, width) in enumerate(sizes_hw):
        frame = np.full((height, width, 3), 50, np.uint8)
        semantic_mask = np.zeros((height, width), np.uint8)
        if n + 1 < len(sizes_hw):
            frame[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 255
            semantic_mask[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 1
        paths.append(str(folder / f"{n}.png"))
        semantic_masks.append(str(folder / f"map{n}.png"))
        cv2.imwrite(paths[-1], frame)
        cv2.imwrite(semantic_masks[-1], semantic_mask)
    objects = len(sizes_hw) - 1
    ring = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]], np.float32)
    return ImageIndex(
        paths,
        np.array(sizes_hw, np.int32),
        compute_offsets([1] * objects + [0]),
        np.arange(objects, dtype=np.int32),
        np.full((objects, 4), 0.5, np.float32),
        {n: str(n) for n in range(objects)},
        PolygonTable.from_lists([[ring]] * objects) if polygons else None,
        semantic_masks if maps else None,
    )


SIZES = [(60, 80), (80, 60), (64, 64), (30, 90), (48, 64)]


def test_validation_sample_by_hand(tmp_path: Path) -> None:
    index = make_index(tmp_path, SIZES, polygons=True, maps=True)
    sample = DetectionDataset(index, imgsz=160, hyp=PLAIN, augment=False)[0]
    assert sample.image.shape == (160, 160, 3)
    assert sample.boxes_xyxy.tolist() == [[40, 50, 120, 110]]  # 60x80 -> 120x160, 20 rows of border
    assert sample.classes.tolist() == [0]
    assert sample.letterbox is not None
    assert sample.letterbox.original_hw == (60, 80)
    assert sample.letterbox.ratio_wh == (2, 2)
    assert sample.letterbox.pad_wh == (0, 20)
    assert sample.polygons is not None
    assert sample.polygons[0][0].tolist() == [[40, 50], [120, 50], [120, 110], [40, 110]]
    assert sample.semantic_mask is not None
    assert (sample.semantic_mask == 255).sum() == 40 * 160
    assert (sample.semantic_mask[50:110, 40:120] == 1).all()
    assert (sample.semantic_mask == 1).sum() == 60 * 80
    assert sample.path == index.paths[0]


def test_fixed_non_square_input(tmp_path: Path) -> None:
    dataset = DetectionDataset(make_index(tmp_path, SIZES), imgsz=96, hyp=PLAIN, augment=False, fixed_hw=(32, 96))
    for i, (height, width) in enumerate(SIZES[:-1]):
        sample = dataset[i]
        assert sample.image.shape == (32, 96, 3)
        assert sample.letterbox is not None
        ratio_w, ratio_h = sample.letterbox.ratio_wh
        left, top = sample.letterbox.pad_wh
        block = np.array([width / 4, height / 4, width * 3 / 4, height * 3 / 4])
        expected = block * np.tile([ratio_w, ratio_h], 2) + [left, top, left, top]
        np.testing.assert_allclose(sample.boxes_xyxy[0], expected, atol=1e-4)
        assert 32 / height == pytest.approx(ratio_h, rel=0.02)


def test_rect_batches_are_sorted_and_share_a_size(tmp_path: Path) -> None:
    index = make_index(tmp_path, SIZES)
    dataset = DetectionDataset(index, imgsz=96, hyp=PLAIN, augment=False, rect=True, batch_size=2, stride=32, pad=0.5)
    assert dataset.index.paths == [index.paths[i] for i in (3, 0, 4, 2, 1)]  # h/w: 1/3, 3/4, 3/4, 1, 4/3
    # (1/3, 3/4): 3/4 * 3 + 0.5 = 2.75 -> 3 strides high; (3/4, 1) square: 3.5 -> 4; (4/3): 3/4 wide
    assert [dataset.get_input_hw(i) for i in range(5)] == [(96, 128)] * 2 + [(128, 128)] * 2 + [(128, 96)]
    for i in range(5):
        sample = dataset[i]
        assert sample.image.shape[:2] == dataset.get_input_hw(i)
        assert sample.path == dataset.index.paths[i]
        fit = sample.letterbox
        assert fit is not None
        expected = [0.25, 0.25, 0.75, 0.75] * np.array(fit.original_hw[::-1] * 2) * np.array(fit.ratio_wh * 2)
        for box in sample.boxes_xyxy:
            np.testing.assert_allclose(box, expected + np.array(fit.pad_wh * 2), atol=1e-3)


def test_thin_image_is_not_lost(tmp_path: Path) -> None:
    index = make_index(tmp_path, [(16, 4000), (64, 64)])
    for augment in (False, True):
        sample = DetectionDataset(index, imgsz=64, hyp=PLAIN, augment=augment)[0]
        assert sample.image.shape == (64, 64, 3)
        assert (sample.image != 114).any()


def test_single_training_sample_equals_the_letterboxed_one(tmp_path: Path) -> None:
    index = make_index(tmp_path, SIZES, polygons=True, maps=True)
    for i in range(len(SIZES)):
        trained = DetectionDataset(index, imgsz=96, hyp=PLAIN, augment=True)[i]
        fitted = DetectionDataset(index, imgsz=96, hyp=PLAIN, augment=False)[i]
        np.testing.assert_allclose(trained.boxes_xyxy, fitted.boxes_xyxy, atol=1e-3)
        np.testing.assert_array_equal(trained.semantic_mask, fitted.semantic_mask)
        assert np.abs(trained.image.astype(int) - fitted.image).max() <= 1
        assert trained.letterbox is None


@pytest.mark.parametrize("mosaic9", [0.0, 1.0])
def test_mosaic_with_everything_on(tmp_path: Path, mosaic9: float) -> None:
    hyp = Hyperparameters(
        mosaic9=mosaic9, mixup=0.5, copy_paste=0.5, degrees=10, shear=2, perspective=0.0002, flipud=0.5
    )
    dataset = DetectionDataset(make_index(tmp_path, SIZES, polygons=True, maps=True), imgsz=96, hyp=hyp, augment=True)
    seen = 0
    for epoch in range(10):
        sample = dataset[epoch, 0]
        seen += len(sample.classes)
        assert sample.image.shape == (96, 96, 3)
        assert sample.polygons is not None
        assert sample.semantic_mask is not None
        assert len(sample.polygons) == len(sample.boxes_xyxy) == len(sample.classes)
        assert sample.boxes_xyxy.min(initial=0) >= 0
        assert sample.boxes_xyxy.max(initial=0) <= 96
        assert set(np.unique(sample.semantic_mask)) <= {0, 1, 255}
        assert sample.path == dataset.index.paths[0]
    assert seen > 10


def test_sample_depends_on_seed_epoch_and_position_only(tmp_path: Path) -> None:
    index = make_index(tmp_path, SIZES)
    one, two = (DetectionDataset(index, imgsz=64, hyp=Hyperparameters(), augment=True, seed=3) for _ in range(2))
    two[4], two[(0, 2)]  # what was asked for before does not matter
    np.testing.assert_array_equal(one[1, 2].image, two[1, 2].image)
    np.testing.assert_array_equal(one[2].image, two[0, 2].image)
    other = DetectionDataset(index, imgsz=64, hyp=Hyperparameters(), augment=True, seed=4)
    assert (one[1, 2].image != one[2, 2].image).any()
    assert (one[1, 2].image != other[1, 2].image).any()


def test_partners_come_from_the_pool(tmp_path: Path) -> None:
    dataset = DetectionDataset(make_index(tmp_path, SIZES), imgsz=64, hyp=Hyperparameters(), augment=True)
    drawn = {k for epoch in range(20) for k in dataset.draw_partners(3, np.random.default_rng(epoch), np.array([1, 3]))}
    assert drawn == {1, 3}
    classes = {int(c) for epoch in range(20) for c in dataset[epoch, 0, (1, 3)].classes}
    assert classes <= {0, 1, 3}


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts_train(tmp_path: Path, channels: int) -> None:
    index = make_index(tmp_path, SIZES)
    paths = []
    for path in index.paths:
        frame = cv2.imread(path)[..., :1].repeat(channels, axis=2)
        paths.append(path.replace(".png", ".npy"))
        np.save(paths[-1], frame)
    index = replace(index, paths=paths)
    for augment in (False, True):
        sample = DetectionDataset(index, imgsz=64, hyp=Hyperparameters(), augment=augment, channels=channels)[0]
        assert sample.image.shape == (64, 64, channels)


def test_semantic_mask_of_a_palette_image_holds_its_numbers(tmp_path: Path) -> None:
    classes = np.array([[0, 1], [2, 255]], np.uint8)
    image = Image.fromarray(classes, "P")
    image.putpalette([200, 10, 10, 0, 90, 0] * 128)
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_semantic_mask(str(tmp_path / "palette.png")), classes)
    Image.new("RGB", (2, 2)).save(tmp_path / "color.png")
    with pytest.raises(ImageError, match="one byte per pixel"):
        read_semantic_mask(str(tmp_path / "color.png"))
    with pytest.raises(ImageError, match="cannot read the semantic mask"):
        read_semantic_mask(str(tmp_path / "missing.png"))


def test_pickled_data_sets_give_the_same_samples(tmp_path: Path) -> None:
    index = make_index(tmp_path, SIZES)
    blur = {"transform": {"__class_fullname__": "Blur", "p": 1.0, "blur_limit": (3, 3)}}
    for hyp in (Hyperparameters(), Hyperparameters(albumentations=blur)):
        dataset = DetectionDataset(index, imgsz=64, hyp=hyp, augment=True)
        sent = copy.deepcopy(dataset)  # by __getstate__, as pickling does: transforms are rebuilt on arrival
        for i in range(len(SIZES)):
            np.testing.assert_array_equal(dataset[3, i].image, sent[3, i].image)


def test_reduced_jpeg_has_the_same_placement(tmp_path: Path) -> None:
    ramp = np.linspace(0, 250, 1600)[None] * np.ones((1200, 1))
    frame = np.dstack([ramp, ramp[:, ::-1], np.full((1200, 1600), 90)]).astype(np.uint8)
    path = str(tmp_path / "ramp.jpg")
    cv2.imwrite(path, frame)
    box = np.array([[0.5, 0.5, 0.5, 0.5]], np.float32)
    index = ImageIndex([path], np.array([[1200, 1600]], np.int32), compute_offsets([1]), np.zeros(1, np.int32), box)
    train = DetectionDataset(index, imgsz=200, hyp=PLAIN, augment=True)
    assert train.load_pixels(0, 200).shape == (150, 200, 3)
    fitted = DetectionDataset(index, imgsz=200, hyp=PLAIN, augment=False)[0]
    assert np.abs(train[0].image.astype(int) - fitted.image).mean() < 1
    np.testing.assert_allclose(train[0].boxes_xyxy, [[50, 62.5, 150, 137.5]], atol=1e-3)
    np.testing.assert_allclose(fitted.boxes_xyxy, train[0].boxes_xyxy, atol=1e-3)


def test_the_last_epochs_have_no_mosaics(tmp_path: Path) -> None:
    """Before the end everything is as without the setting, after it as with mosaic 0."""
    index, hyp = make_index(tmp_path, SIZES), replace(PLAIN, mosaic=1.0, mixup=1.0, scale=0.5)
    usual = DetectionDataset(index, imgsz=64, hyp=hyp, augment=True)
    closing = DetectionDataset(index, imgsz=64, hyp=hyp, augment=True, mosaic_epochs=2)
    alone = DetectionDataset(index, imgsz=64, hyp=replace(hyp, mosaic=0.0), augment=True)
    repeat = EPOCH_REPEAT
    for epoch, same in ((0, usual), (1, usual), (2, alone), (5, alone), (repeat + 1, usual), (repeat + 2, alone)):
        for i in range(len(SIZES)):
            assert np.array_equal(closing[epoch, i].image, same[epoch, i].image)
            assert np.array_equal(closing[epoch, i].boxes_xyxy, same[epoch, i].boxes_xyxy)


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_cutmix_is_reproducible_and_draws_nothing_if_disabled(tmp_path: Path, mosaic: float) -> None:
    index, hyp = make_index(tmp_path, SIZES, polygons=True, maps=True), replace(PLAIN, mosaic=mosaic, fliplr=0.5)
    plain = DetectionDataset(index, imgsz=64, hyp=hyp, augment=True)
    cut = DetectionDataset(index, imgsz=64, hyp=replace(hyp, cutmix=1.0), augment=True)
    assert any(not np.array_equal(plain[0, i].image, cut[0, i].image) for i in range(len(SIZES)))
    assert all(np.array_equal(cut[3, i].image, cut[3, i].image) for i in range(len(SIZES)))
    for i in range(len(SIZES)):
        sample = cut[0, i]
        assert sample.polygons is not None and sample.semantic_mask is not None
        assert len(sample.polygons) == len(sample.boxes_xyxy) == len(sample.classes)
        assert (sample.boxes_xyxy >= 0).all() and (sample.boxes_xyxy <= 64).all()
        white = sample.image[..., 0] > 200  # objects are white, and class 1 in the map
        assert np.mean(white == (sample.semantic_mask == 1)) > 0.9


def test_rect_disables_cutmix(tmp_path: Path) -> None:
    """Partners have other sizes there."""
    index = make_index(tmp_path, SIZES)
    plain, cut = (
        DetectionDataset(index, imgsz=64, hyp=replace(PLAIN, cutmix=p), augment=True, rect=True, batch_size=2)
        for p in (0.0, 1.0)
    )
    assert all(np.array_equal(plain[0, i].image, cut[0, i].image) for i in range(len(SIZES)))


def test_tiles_are_read_from_their_file(tmp_path: Path) -> None:
    """The pixels of a tile, without augmentation and from the memory cache."""
    frame = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), frame)
    index = ImageIndex(
        [str(tmp_path / "a.png")],
        np.array([[300, 400]], np.int32),
        np.array([0, 1]),
        np.array([0], np.int32),
        np.array([[0.5, 0.5, 1.0, 1.0]], np.float32),
    )
    tiles = tile_index(index, 128, overlap=0.25, min_visible=0.0)
    for cache in (None, "ram"):
        dataset = DetectionDataset(tiles, imgsz=128, hyp=Hyperparameters(), augment=False, cache=cache)
        assert len(dataset) == 12 and tiles.windows is not None
        for i, (x1, y1, x2, y2) in enumerate(tiles.windows.tolist()):
            assert np.array_equal(dataset[i].image, frame[y1:y2, x1:x2])
            assert dataset[i].boxes_xyxy.tolist() == [[0, 0, 128, 128]]
