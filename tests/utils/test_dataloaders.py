"""Loaders for training at `utils.dataloaders` and `utils.datasets`, against files read and values worked out here."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import random
from argparse import Namespace
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from tests.class_sets import write_class_set
from utils import dataloaders, datasets
from utils.augmentations import letterbox
from utils.core.errors import InputError
from utils.dataloaders import (
    ClassificationDataset,
    HUBDatasetStats,
    InfiniteDataLoader,
    LoadImagesAndLabels,
    create_classification_dataloader,
    create_dataloader,
    detection,
)
from utils.general import scale_boxes, xywh2xyxy

HYP = {
    **dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "shear", "perspective"), 0.0),
    **dict.fromkeys(("flipud", "fliplr", "mixup", "copy_paste", "scale"), 0.0),
    **{"mosaic": 1.0, "lr0": 0.01, "a fork's own key": "ignored"},
}
SQUARE = (30, 20, 50, 40)  # bright object in every image of `squares`, x1, y1, x2, y2


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images folder of a set: eight dark images 80x60 with a bright square, one of 60x80 without a label file."""
    root = tmp_path_factory.mktemp("squares")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    x1, y1, x2, y2 = SQUARE
    for number in range(8):
        frame = np.full((60, 80, 3), 10 * number, np.uint8)
        frame[y1:y2, x1:x2] = 250
        cv2.imwrite(str(root / f"images/{number}.png"), frame)
        (root / f"labels/{number}.txt").write_text(
            f"{number % 3} {(x1 + x2) / 160} {(y1 + y2) / 120} {(x2 - x1) / 80} {(y2 - y1) / 60}\n"
        )
    cv2.imwrite(str(root / "images/8.png"), np.zeros((80, 60, 3), np.uint8))
    return root / "images"


def read_boxes(image: str) -> np.ndarray:
    """(n, 5) class and xyxy in pixels, from the label file."""
    rows = np.loadtxt(image.replace("images", "labels").replace(".jpg", ".txt").replace(".png", ".txt"), ndmin=2)
    height, width = cv2.imread(image).shape[:2]
    centers, sizes = rows[:, 1:3] * [width, height], rows[:, 3:] * [width, height]
    return np.concatenate([rows[:, :1], centers - sizes / 2, centers + sizes / 2], axis=1)


# -- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rect", "imgsz", "workers"), [(True, 320, 2), (False, 320, 0), (True, 200, 0)])
def test_targets_map_back_to_the_label_files(shared: Path, rect: bool, imgsz: int, workers: int) -> None:
    """What val.py does: targets to pixels of the input, then `scale_boxes` with the shapes of the batch."""
    folder = shared / "data/bccd/images/val"
    loader, dataset = create_dataloader(
        folder, imgsz, 16, 32, pad=0.5 if rect else 0.0, rect=rect, workers=workers, prefix="val: "
    )
    assert (len(loader), len(dataset), dataset.n) == (6, 87, 87)
    seen = []
    for images, targets, paths, shapes in loader:
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        for number, path in enumerate(paths):
            rows = targets[targets[:, 0] == number]
            size = torch.tensor([images.shape[3], images.shape[2]]).repeat(2)
            boxes = scale_boxes(images.shape[2:], xywh2xyxy(rows[:, 2:] * size), shapes[number][0], shapes[number][1])
            expected = read_boxes(path)
            assert rows[:, 1].tolist() == expected[:, 0].tolist()
            assert np.abs(boxes.numpy() - expected[:, 1:]).max() < 1e-3
            seen.append(path)
    assert sorted(seen) == sorted(map(str, folder.glob("*.jpg")))


def test_letterboxed_item(squares: Path) -> None:
    """At its own size the image is the file on gray; 60 px get a border of 18 each, 61 px one of 17.5."""
    dataset = LoadImagesAndLabels(str(squares), img_size=80)
    image, labels, path, shapes = dataset[3]
    assert path == str(squares / "3.png")
    assert image.dtype == torch.uint8
    padded = np.full((80, 80, 3), 114, np.uint8)
    padded[10:70] = cv2.imread(path)[..., ::-1]
    assert np.array_equal(image.numpy(), padded.transpose(2, 0, 1))
    assert shapes == ((60, 80), ((1.0, 1.0), (0.0, 10.0)))
    x1, y1, x2, y2 = SQUARE
    expected = [0, 0, (x1 + x2) / 160, ((y1 + y2) / 2 + 10) / 80, (x2 - x1) / 80, (y2 - y1) / 80]
    assert labels.numpy() == pytest.approx(np.array([expected]), abs=1e-6)
    empty = dataset[8]
    assert (empty[1].shape, empty[3]) == ((0, 6), ((80, 60), ((1.0, 1.0), (10.0, 0.0))))


@pytest.mark.parametrize("cache", [False, "ram"])
def test_sizes_are_truncated(tmp_path: Path, cache: Any) -> None:
    """99x61 at 64 px is 64x39 (61 * 64 / 99 is 39.4), 99x67 is 64x43 (43.3), 99x68 is 64x43 too (43.96)."""
    for height in (61, 67, 68):
        cv2.imwrite(str(tmp_path / f"{height}.png"), np.full((height, 99, 3), 200, np.uint8))
    dataset = LoadImagesAndLabels(str(tmp_path), img_size=64, cache_images=cache)
    for i, height in enumerate((39, 43, 43)):
        image, _, _, shapes = dataset[i]
        assert int((image[0, :, 0] == 200).sum()) == height
        assert shapes[1] == ((height / dataset.shapes[i, 1], 64 / 99), (0.0, (64 - height) / 2))


def test_half_pixels_of_padding(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.zeros((61, 96, 3), np.uint8))
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    image, labels, _, shapes = LoadImagesAndLabels(str(tmp_path / "images"), img_size=96)[0]
    assert (tuple(image.shape), shapes) == ((3, 96, 96), ((61, 96), ((1.0, 1.0), (0.0, 17.5))))
    assert labels[0, 2:].tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25 * 61 / 96])
    gray = (image == 114).all(0).all(1)
    assert (int(gray[:30].sum()), int(gray.sum())) == (17, 35)  # drawn at a whole pixel


def test_attributes(squares: Path) -> None:
    dataset = LoadImagesAndLabels([str(squares / "*.png")], img_size=64, batch_size=4)
    files = [str(squares / f"{number}.png") for number in range(9)]
    assert dataset.im_files == dataset.img_files == files
    assert dataset.label_files[2] == str(squares.parent / "labels/2.txt")
    assert dataset.shapes.tolist() == [[80, 60]] * 8 + [[60, 80]]
    assert [len(rows) for rows in dataset.labels] == [1] * 8 + [0]
    assert dataset.labels[4].tolist() == [[1, 0.5, 0.5, 0.25, pytest.approx(1 / 3)]]
    assert np.concatenate(dataset.labels).shape == (8, 5)
    assert (list(dataset.indices), dataset.batch.tolist()) == (list(range(9)), [0, 0, 0, 0, 1, 1, 1, 1, 2])
    assert (dataset.mosaic, dataset.rect, dataset.batch_shapes, dataset.augment) == (False, False, None, False)
    assert dataset.segments == [[]] * 9
    assert dataset.ims == [None] * 9
    assert len(LoadImagesAndLabels(str(squares), min_items=1)) == 8
    single = LoadImagesAndLabels(str(squares), single_cls=True)
    assert {float(rows[0, 0]) for rows in single.labels[:8]} == {0.0}


def test_rect_shapes(squares: Path) -> None:
    """80x60 at 64 px needs 64x48, up to a multiple of 16 with half a stride more; the last batch has the tall image."""
    dataset = LoadImagesAndLabels(str(squares), img_size=64, batch_size=8, rect=True, stride=16, pad=0.5)
    assert dataset.batch_shapes is not None
    assert dataset.batch_shapes.tolist() == [[64, 80], [80, 64]]
    assert dataset[0][0].shape == (3, 64, 80)
    assert (dataset[8][0].shape, dataset[8][2]) == ((3, 80, 64), str(squares / "8.png"))
    assert not LoadImagesAndLabels(str(squares), rect=True, image_weights=True).rect


def test_list_file_and_errors(squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listing = tmp_path / "val.txt"
    listing.write_text(f"{squares}/5.png\n{squares}/1.png\n")
    dataset = LoadImagesAndLabels(listing)
    assert [Path(file).name for file in dataset.im_files] == ["1.png", "5.png"]
    assert (tmp_path / "val.loader.cache").is_file()
    with pytest.raises(InputError, match=r"train: .*nowhere: no images found"):
        create_dataloader(tmp_path / "nowhere", 64, 4, 32, prefix="train: ")
    listing.write_text(f"{squares}/8.png\n")
    with pytest.raises(InputError, match="no labels, so there is nothing to train on"):
        LoadImagesAndLabels(listing, augment=True, hyp=HYP)
    with pytest.raises(InputError, match="no usable image with at least 1 objects"):
        LoadImagesAndLabels(listing, min_items=1)
    with pytest.raises(InputError, match="hyp: mosaic: 2"):
        LoadImagesAndLabels(squares, augment=True, hyp={"mosaic": 2})


def test_image_that_disappears(squares: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes((squares / "1.png").read_bytes())
    loader, _ = create_dataloader(str(tmp_path), 64, 1, 32, workers=0)
    image.unlink()
    with pytest.raises(InputError, match=r"a\.png: No such file"):
        next(iter(loader))


# -- training ---------------------------------------------------------------------------------------------------------


def check_squares(image: np.ndarray, boxes_xyxy: np.ndarray) -> None:
    """The boxes of an image (3, H, W) cover bright pixels and no others, and almost all of them."""
    covered = np.zeros(image.shape[1:], bool)
    for x1, y1, x2, y2 in boxes_xyxy:
        inner = image[:, int(y1) + 2 : int(y2) - 1, int(x1) + 2 : int(x2) - 1]
        assert inner.min(initial=255) > 200
        covered[max(0, int(y1) - 1) : int(y2) + 2, max(0, int(x1) - 1) : int(x2) + 2] = True
    assert (image[0, ~covered] > 200).sum() < 100  # slivers of squares are not labeled


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches(squares: Path, workers: int) -> None:
    """Every target of a mosaic is a bright square, and the others are none; each epoch has all images."""
    hyp = HYP | {"scale": 0.3, "fliplr": 0.5}
    loader, dataset = create_dataloader(
        str(squares), 64, 4, 32, hyp=hyp, augment=True, workers=workers, shuffle=True, cache=True
    )
    assert dataset.mosaic and isinstance(loader, InfiniteDataLoader)
    np.random.seed(0)
    orders = []
    for _ in range(2):
        order = []
        for images, targets, paths, shapes in loader:
            assert images.shape == (len(paths), 3, 64, 64)
            assert shapes == (None,) * len(paths)
            for number, image in enumerate(images.numpy()):
                rows = targets[targets[:, 0] == number, 2:].numpy() * 64
                check_squares(image, np.concatenate([rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2], 1))
            order += paths
        assert sorted(order) == sorted(dataset.im_files)
        orders.append(order)
    assert orders[0] != orders[1]


def test_random_state_decides_the_item(squares: Path) -> None:
    dataset = LoadImagesAndLabels(str(squares), img_size=64, augment=True, hyp=HYP | {"hsv_v": 0.5})
    items = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        items.append(dataset[0][0])
    assert torch.equal(items[0], items[1]) and not torch.equal(items[0], items[2])


def test_mosaic_can_be_switched_off(squares: Path) -> None:
    np.random.seed(0)
    dataset = LoadImagesAndLabels(str(squares), img_size=80, augment=True, hyp=HYP)
    plain = LoadImagesAndLabels(str(squares), img_size=80)[2][0]
    assert any(not torch.equal(dataset[2][0], plain) for _ in range(3))
    dataset.mosaic = False
    assert torch.equal(dataset[2][0], plain)
    dataset.mosaic, dataset.hyp = True, HYP | {"mosaic": 0.0}
    assert torch.equal(dataset[2][0], plain)


def test_image_weights(squares: Path) -> None:
    """`indices` as train.py sets them; the other images of the mosaics are drawn from them too."""
    loader, dataset = create_dataloader(str(squares), 64, 3, 32, hyp=HYP, augment=True, workers=0, image_weights=True)
    assert not isinstance(loader, InfiniteDataLoader)
    np.random.seed(0)
    dataset.indices = [7] * dataset.n
    for images, _, paths, _ in loader:
        assert set(paths) == {str(squares / "7.png")}
        assert images[:, 0].min() == 70  # the background of image 7 is the darkest


def test_load_image_and_mosaics(squares: Path) -> None:
    np.random.seed(0)
    dataset = LoadImagesAndLabels(str(squares), img_size=160, augment=True, hyp=HYP)
    frame, original, resized = dataset.load_image(3)
    assert (frame.shape, original, resized) == ((120, 160, 3), (60, 80), (120, 160))
    for count, (image, labels) in {4: dataset.load_mosaic(0), 9: dataset.load_mosaic9(0)}.items():
        assert image.shape == (160, 160, 3)
        assert labels.shape[1] == 5 and 0 < len(labels) <= count
        check_squares(image.transpose(2, 0, 1), labels[:, 1:])
    np.random.seed(5)
    first = dataset.load_mosaic(1)
    for function in (datasets.load_mosaic, datasets.load_mosaic9, datasets.load_image):
        np.random.seed(5)
        assert len(function(dataset, 1)) == (3 if function is datasets.load_image else 2)
    np.random.seed(5)
    assert np.array_equal(datasets.load_mosaic(dataset, 1)[0], first[0])


def test_caches(squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    cached = LoadImagesAndLabels(str(squares), img_size=80, cache_images="ram")
    assert np.array_equal(cached.ims[3], cv2.imread(str(squares / "3.png")))  # type: ignore[arg-type]
    dataset = LoadImagesAndLabels(str(squares), img_size=80)
    assert dataset.check_cache_ram()
    monkeypatch.setattr(detection, "get_free_memory", lambda: 9 * 3 * 80 * 60)
    assert dataset.check_cache_ram(safety_margin=0.0)
    assert not dataset.check_cache_ram(safety_margin=0.1)
    dataset.cache_images_to_disk(3)
    (file,) = squares.glob("3.png.*.cache")
    with open(file, "rb") as stream:
        assert np.array_equal(np.load(stream), cached.ims[3])  # type: ignore[arg-type]
    file.unlink()
    cache = dataset.cache_labels()
    labels, size, segments = cache[str(squares / "4.png")]
    assert (labels.shape, size, segments) == ((1, 5), (80, 60), [])
    assert (cache["results"], cache["msgs"]) == ((8, 1, 0, 0, 9), [])


# -- batches ----------------------------------------------------------------------------------------------------------


def make_item(level: int, rows: list[list[float]]) -> Any:
    image = torch.full((3, 4, 6), level, dtype=torch.uint8)
    return image, torch.tensor(rows).reshape(-1, 6), f"{level}.png", None


def test_collate_fn() -> None:
    items = [make_item(1, []), make_item(2, [[0, 1, 0.5, 0.5, 0.2, 0.2], [0, 2, 0.1, 0.1, 0.2, 0.2]])]
    images, targets, paths, shapes = LoadImagesAndLabels.collate_fn(items)
    assert images[:, 0, 0, 0].tolist() == [1, 2]
    assert targets[:, :2].tolist() == [[1, 1], [1, 2]]
    assert (paths, shapes) == (("1.png", "2.png"), (None, None))
    assert items[1][1][:, 0].tolist() == [0, 0]  # unchanged


@pytest.mark.parametrize("seed", [0, 1])
def test_collate_fn4(seed: int) -> None:
    """Seed 1 draws 0.13, a tiling; seed 0 draws 0.84, an enlarged first image. The fifth item is enlarged."""
    random.seed(seed)
    items = [make_item(level, [[0, level, 0.5, 0.25, 0.2, 0.4]]) for level in range(5)]
    images, targets, paths, _ = LoadImagesAndLabels.collate_fn4(items)
    assert images.shape == (2, 3, 8, 12)
    assert paths == ("0.png", "4.png")
    assert (images[1] == 4).all()
    fifth = [1, 4, 0.5, 0.25, 0.2, 0.4]
    if seed:
        assert images[0, 0, [0, 0, 7, 7], [0, 11, 0, 11]].tolist() == [0, 1, 2, 3]
        expected = [
            [0, 0, 0.25, 0.125, 0.1, 0.2],
            [0, 1, 0.75, 0.125, 0.1, 0.2],
            [0, 2, 0.25, 0.625, 0.1, 0.2],
            [0, 3, 0.75, 0.625, 0.1, 0.2],
        ]
    else:
        assert (images[0] == 0).all()
        expected = [[0, 0, 0.5, 0.25, 0.2, 0.4]]
    assert targets.numpy() == pytest.approx(np.array([*expected, fifth]))


def test_quad_loader(squares: Path) -> None:
    loader, _ = create_dataloader(str(squares), 64, 8, 32, hyp=HYP, augment=True, workers=0, quad=True)
    images, targets, paths, _ = next(iter(loader))
    assert images.shape == (2, 3, 128, 128) and len(paths) == 2
    assert set(targets[:, 0].tolist()) <= {0.0, 1.0}


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_distributed_sampler(squares: Path, process_group: None) -> None:
    loader, _ = create_dataloader(str(squares), 64, 4, 32, rank=0, workers=0, shuffle=True)
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        orders.append([path for batch in loader for path in batch[2]])
    assert orders[0] == orders[2] != orders[1]


def test_shuffle_is_ignored_with_rect(squares: Path, caplog: pytest.LogCaptureFixture, log_messages: Any) -> None:
    loader, dataset = create_dataloader(str(squares), 64, 4, 32, rect=True, workers=0, shuffle=True)
    assert [path for batch in loader for path in batch[2]] == dataset.im_files
    assert any("they are not shuffled" in message for message in log_messages())


@pytest.fixture
def log_messages(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    from utils.core.logging import LOGGER

    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    return lambda: caplog.messages


def test_seeds_and_samplers() -> None:
    torch.manual_seed(3)
    dataloaders.seed_worker(0)
    first = random.random(), np.random.rand()
    dataloaders.seed_worker(0)
    assert (random.random(), np.random.rand()) == first
    random.seed(3)
    assert random.random() == first[0]
    assert list(islice(dataloaders._RepeatSampler([1, 2]), 5)) == [1, 2, 1, 2, 1]
    assert (dataloaders.RANK, dataloaders.LOCAL_RANK, dataloaders.PIN_MEMORY) == (-1, -1, True)


@pytest.mark.parametrize(
    ("value", "kind"), [(True, "ram"), ("ram", "ram"), ("val", "ram"), ("disk", "disk"), (False, None), (None, None)]
)
def test_kinds_of_caches(value: Any, kind: str | None) -> None:
    assert detection.get_cache_kind(value) == kind


@pytest.mark.parametrize("module", [dataloaders, datasets])
def test_star_imports(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"star_import_of_{module.__name__.replace('.', '_')}"
    (tmp_path / f"{name}.py").write_text(f"from {module.__name__} import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    program = importlib.import_module(name)
    assert program.LoadImages is module.LoadImages
    assert (program.np, program.cv2, program.letterbox) == (np, cv2, letterbox)
    assert set(module.__all__) <= set(vars(program))


def test_loader_of_releases_up_to_5(squares: Path) -> None:
    """`opt` in the place of `single_cls`, `world_size` before `workers`."""
    opt = Namespace(single_cls=True)
    loader, dataset = datasets.create_dataloader(
        str(squares), 64, 4, 32, opt, hyp=None, cache=False, rect=True, rank=-1, world_size=1, workers=0, pad=0.5
    )
    assert {float(row[0]) for rows in dataset.labels for row in rows} == {0.0}
    assert len(next(iter(loader))) == 4
    positional = datasets.create_dataloader(
        str(squares), 64, 4, 32, opt, None, False, False, 0.0, False, -1, 1, 0, False, True
    )
    assert (positional[0].num_workers, positional[0].collate_fn) == (0, LoadImagesAndLabels.collate_fn4)
    _, six = datasets.create_dataloader(str(squares), 64, 4, 32, False, workers=0)
    assert {float(row[0]) for rows in six.labels for row in rows} == {0.0, 1.0, 2.0}


# -- files ------------------------------------------------------------------------------------------------------------


def test_exif() -> None:
    image = Image.new("RGB", (8, 4))
    image.putpixel((0, 0), (255, 0, 0))
    assert dataloaders.exif_size(image) == (8, 4)
    assert dataloaders.exif_transpose(image) is image
    image.getexif()[0x0112] = 6  # to be turned 90 degrees clockwise
    assert dataloaders.exif_size(image) == (4, 8)
    turned = dataloaders.exif_transpose(image)
    assert turned.size == (4, 8) and turned.getpixel((3, 0)) == (255, 0, 0)
    assert dataloaders.exif_size(turned) == (4, 8)


def test_paths_and_hash(tmp_path: Path) -> None:
    assert datasets.img2label_paths(["/a/images/b/c.jpg", "/x/images/images/d.png"]) == [
        "/a/labels/b/c.txt",
        "/x/images/labels/d.txt",
    ]
    (tmp_path / "a").write_bytes(b"12345")
    paths = [str(tmp_path / "a"), str(tmp_path / "missing")]
    assert dataloaders.get_hash(paths) == hashlib.md5(f"5{''.join(paths)}".encode()).hexdigest()


def test_verify_image_label(squares: Path, tmp_path: Path) -> None:
    image, label = str(squares / "4.png"), str(squares.parent / "labels/4.txt")
    file, rows, size, segments, *counts, message = dataloaders.verify_image_label((image, label, ""))
    assert (file, size, segments, counts, message) == (image, (80, 60), [], [0, 1, 0, 0], "")
    assert rows == pytest.approx(np.array([[1, 0.5, 0.5, 0.25, 1 / 3]]))
    assert dataloaders.verify_image_label((image, str(tmp_path / "none.txt"), ""))[4:8] == (1, 0, 0, 0)
    (tmp_path / "empty.txt").touch()
    assert dataloaders.verify_image_label((image, str(tmp_path / "empty.txt"), ""))[4:8] == (0, 1, 1, 0)
    (tmp_path / "mixed.txt").write_text("7 0.1 0.2 0.5 0.2 0.5 0.6\n99 0.5 0.5 0.2 0.4\n")
    _, rows, _, segments, *_ = dataloaders.verify_image_label((image, str(tmp_path / "mixed.txt"), ""))
    assert rows[:, 0].tolist() == [7, 99]
    assert segments[0] == pytest.approx(np.array([[0.1, 0.2], [0.5, 0.2], [0.5, 0.6]]))
    assert segments[1] == pytest.approx(np.array([[0.4, 0.3], [0.6, 0.3], [0.6, 0.7], [0.4, 0.7]]))
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = dataloaders.verify_image_label((str(tmp_path / "broken.png"), label, "train: "))
    assert broken[:8] == (None, None, None, None, 0, 0, 0, 1)
    assert broken[8].startswith("train: WARNING") and "broken.png" in broken[8]


def test_autosplit(squares: Path) -> None:
    dataloaders.autosplit(squares, weights=(0.5, 0.5, 0.0), annotated_only=True)
    lists = [squares.parent / f"autosplit_{split}.txt" for split in ("train", "val", "test")]
    lines = [file.read_text().split() if file.exists() else [] for file in lists]
    assert [len(part) for part in lines] == [4, 4, 0]
    assert sorted(lines[0] + lines[1]) == [f"./images/{number}.png" for number in range(8)]
    dataloaders.autosplit(squares)  # replaces the lists
    assert len(lists[0].read_text().split()) == 8
    for file in lists:
        file.unlink(missing_ok=True)


def test_boxes_and_flat_folders(squares: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        for file in sorted((squares.parent / folder).iterdir())[:2]:
            (root / folder / file.name).write_bytes(file.read_bytes())
    datasets.extract_boxes(root)
    crops = sorted(path.relative_to(root / "classifier").as_posix() for path in root.rglob("*.jpg"))
    assert crops == ["0/0_0.jpg", "1/1_0.jpg"]
    crop = cv2.imread(str(root / "classifier/0/0_0.jpg"))
    assert crop.shape[0] >= 20 and crop.mean() > 100
    (root / "labels/again").mkdir()
    (root / "labels/again/0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert datasets.flatten_recursive(root) == tmp_path / "set_flat"
    names = sorted(path.name for path in (tmp_path / "set_flat").iterdir())
    assert names == ["0.png", "0.txt", "0_0.jpg", "0_2.txt", "1.png", "1.txt", "1_0.jpg"]
    with pytest.raises(InputError, match="set_flat: the folder is not empty"):
        datasets.flatten_recursive(root)
    datasets.create_folder(tmp_path / "new/er")
    assert not list((tmp_path / "new/er").iterdir())


def parse_rows(file: Path) -> np.ndarray:
    return np.array([line.split() for line in file.read_text().splitlines()], np.float64).reshape(-1, 5)


def test_statistics(tiny_data: Path, log_messages: Any) -> None:
    stats = HUBDatasetStats(tiny_data).get_json()
    assert (stats["nc"], stats["names"], stats["test"]) == (2, ["square", "disc"], None)
    for split in ("train", "val"):
        files = {file.stem: parse_rows(file) for file in (tiny_data.parent / "labels" / split).glob("*.txt")}
        rows = np.concatenate(list(files.values()))
        summary = stats[split]
        assert summary["instance_stats"] == {
            "total": len(rows),
            "per_class": [int((rows[:, 0] == label).sum()) for label in (0, 1)],
        }
        images = [sum(label in labels[:, 0] for labels in files.values()) for label in (0, 1)]
        assert summary["image_stats"] == {"total": len(files), "unlabelled": 1, "per_class": images}
        (first,) = [entry for entry in summary["labels"] if "000.jpg" in entry]
        assert np.array(first["000.jpg"]) == pytest.approx(files["000"], abs=1e-4)
    hub = datasets.dataset_stats(tiny_data, hub=True, profile=True, verbose=True)
    folder = tiny_data.parent.with_name(f"{tiny_data.parent.name}-hub")
    assert json.loads((folder / "stats.json").read_text()) == hub == stats
    written = {file.name for file in (folder / "images").glob("*.jpg")}
    assert len(written) == 18 and {"000.jpg", "000_2.jpg", "011.jpg"} <= written  # train and val share file names
    assert any('"nc": 2' in message for message in log_messages())


# -- classification ---------------------------------------------------------------------------------------------------


def test_classification_dataset(tmp_path: Path) -> None:
    root = write_class_set(tmp_path / "set")
    dataset = ClassificationDataset(root / "train", augment=False, imgsz=32)
    classes = sorted(path.name for path in (root / "train").iterdir())
    assert (dataset.classes, dataset.class_to_idx) == (classes, {name: k for k, name in enumerate(classes)})
    assert len(dataset) == len(dataset.samples) == sum(1 for path in (root / "train").rglob("*") if path.is_file())
    for i in (0, len(dataset) - 1):
        image, label = dataset[i]
        path, expected = dataset.samples[i]
        assert label == expected == classes.index(Path(path).parent.name)
        assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
        torch.testing.assert_close(image, dataset.torch_transforms(cv2.imread(path)), atol=0.02, rtol=0)
    augmented = ClassificationDataset(root / "train", augment=True, imgsz=32, cache="ram")
    np.random.seed(0)
    first = augmented[0][0]
    assert not torch.equal(first, augmented[0][0])
    np.random.seed(0)
    assert torch.equal(first, augmented[0][0])
    with pytest.raises(InputError, match="no such folder"):
        ClassificationDataset(root / "nowhere", augment=False, imgsz=32)


@pytest.mark.parametrize("workers", [0, 2])
def test_classification_dataloader(tmp_path: Path, workers: int) -> None:
    root = write_class_set(tmp_path / "set")
    loader: Any = create_classification_dataloader(root / "train", imgsz=32, batch_size=4, workers=workers)
    labels = []
    for images, targets in loader:
        assert images.shape == (len(targets), 3, 32, 32)
        assert images.min() >= -2.2 and images.max() <= 2.7
        labels += targets.tolist()
    assert sorted(labels) == sorted(loader.dataset.targets)
    assert labels != loader.dataset.targets  # shuffled
