from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.types import Batch, Sample
from utils.datasets.detection import DetectionDataset
from utils.datasets.image_weights import class_weights, image_weights
from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.datasets.loader import EpochBatchSampler, build_loader, build_targets, collate, tile, upscale

PIPELINE = {
    "__class_fullname__": "Compose",
    "transforms": [
        {"__class_fullname__": "Blur", "p": 0.5, "blur_limit": (3, 7)},
        {"__class_fullname__": "Affine", "p": 0.5, "rotate": (-10, 10)},
    ],
}
EVERYTHING = Hyperparameters(
    mixup=0.5, copy_paste=0.5, mosaic9=0.3, mosaic=0.8, degrees=5, albumentations={"transform": PIPELINE}
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{n}.png") for n in range(10)]
    for n, path in enumerate(paths):
        cv2.imwrite(path, rng.integers(0, 255, (48 if n % 2 else 64, 64, 3), dtype=np.uint8))
    corners = rng.uniform(0, 0.5, (20, 2))
    boxes = np.concatenate([corners + 0.2, np.full((20, 2), 0.3)], axis=1).astype(np.float32)
    rings = [[np.array([[x, y], [x + 0.3, y], [x, y + 0.3]])] for x, y in corners + 0.05]
    return ImageIndex(
        paths,
        np.array([[48 if n % 2 else 64, 64] for n in range(10)], np.int32),
        compute_offsets([2] * 10),
        np.arange(20, dtype=np.int32) % 3,
        boxes,
        {0: "a", 1: "b", 2: "c"},
        PolygonTable.from_lists(rings),
    )


def dataset(index: ImageIndex, **options: object) -> DetectionDataset:
    settings = {"imgsz": 64, "hyp": EVERYTHING, "augment": True, "seed": 1, **options}
    return DetectionDataset(index, **settings)  # type: ignore[arg-type]


def digests(batches: list[Batch]) -> list[str]:
    return [hashlib.sha256(b.images.numpy().tobytes() + b.targets.numpy().tobytes()).hexdigest() for b in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("quad", [False, True])
def test_images_do_not_depend_on_workers(index: ImageIndex, monkeypatch: pytest.MonkeyPatch, quad: bool) -> None:
    monkeypatch.setattr("utils.datasets.loader.available_cpus", lambda: 3)
    seen = []
    for workers in (0, 1, 3):
        loader = build_loader(dataset(index), batch_size=4, workers=workers, shuffle=True, seed=1, quad=quad)
        assert loader.loader.num_workers == workers
        loader.set_epoch(0)
        first = digests(list(loader))
        loader.set_epoch(1)
        seen.append(first + digests(list(loader)))
    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == 6  # three batches in each of two epochs, all different


def test_epoch_after_resume_is_that_epoch(index: ImageIndex) -> None:
    straight = build_loader(dataset(index), batch_size=4, workers=0, shuffle=True, seed=1)
    runs = []
    for epoch in range(3):
        straight.set_epoch(epoch)
        runs.append(digests(list(straight)))
    resumed = build_loader(dataset(index), batch_size=4, workers=0, shuffle=True, seed=1)
    resumed.set_epoch(2)
    assert digests(list(resumed)) == runs[2]


def test_order_without_shuffle_and_the_last_batch(index: ImageIndex) -> None:
    loader = build_loader(dataset(index, augment=False), batch_size=4, workers=0)
    batches = list(loader)
    assert [p for b in batches for p in b.paths] == index.paths
    assert [len(b) for b in batches] == [4, 4, 2]
    assert len(loader) == 3
    assert [len(b) for b in build_loader(dataset(index), batch_size=4, workers=0, drop_last=True)] == [4, 4]
    assert [len(b) for b in build_loader(dataset(index), batch_size=64, workers=0, drop_last=True)] == [10]


def test_shuffle_has_every_image_once() -> None:
    batches = EpochBatchSampler(50, batch_size=8, shuffle=True, seed=0, drop_last=False)
    orders = []
    for epoch in (0, 1, 0):
        batches.epoch = epoch
        keys = [key for batch in batches for key in batch]
        assert {key[0] for key in keys} == {epoch}  # type: ignore[index]
        orders.append([key[1] for key in keys])  # type: ignore[index]
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] == orders[2] != orders[1]


def test_rect_is_not_shuffled(index: ImageIndex, caplog: pytest.LogCaptureFixture) -> None:
    rect = dataset(index, augment=False, rect=True, batch_size=5, pad=0.0, stride=16)
    with caplog.at_level("WARNING", logger="openyolov5"):
        batches = list(build_loader(rect, batch_size=5, workers=0, shuffle=True))
    assert [tuple(b.images.shape[2:]) for b in batches] == [(48, 64), (64, 64)]
    assert "not shuffled" in caplog.text


def test_collate_by_hand() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[..., 0], image[..., 2] = 1, 3  # blue, red
    one = Sample(image, np.array([[2, 1, 4, 3]], np.float32), np.array([5]), path="a")
    empty = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), path="b")
    two = Sample(image, np.array([[0, 0, 8, 4], [0, 0, 8, 2]], np.float32), np.array([1, 2]), path="c")
    batch = collate([one, empty, two])
    assert batch.images.shape == (3, 3, 4, 8)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images[0, :, 0, 0].tolist() == [3, 0, 1]
    assert batch.targets.tolist() == [
        [0, 5, 0.375, 0.5, 0.25, 0.5],
        [2, 1, 0.5, 0.5, 1, 1],
        [2, 2, 0.5, 0.25, 1, 0.5],
    ]
    assert batch.paths == ["a", "b", "c"]
    assert batch.letterboxes == [None] * 3
    assert batch.semantic_masks is None
    assert build_targets([empty]).shape == (0, 6)


@pytest.mark.parametrize("channels", [1, 4, 10])
def test_collate_other_channels(channels: int) -> None:
    image = np.arange(channels, dtype=np.uint8) * np.ones((2, 2, 1), np.uint8)
    batch = collate([Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))])
    assert batch.images[0, :, 1, 1].tolist() == list(range(channels))


def test_collate_keeps_semantic_masks() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    maps = [np.full((4, 4), n, np.uint8) for n in (3, 255)]
    batch = collate([Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), semantic_mask=m) for m in maps])
    assert batch.semantic_masks is not None
    assert batch.semantic_masks[:, 0, 0].tolist() == [3, 255]


def test_quad_by_hand() -> None:
    def plain(value: int) -> Sample:
        ring = np.array([[1.0, 1], [3, 1], [3, 3]])
        semantic_mask = np.full((4, 6), value, np.uint8)
        image = np.full((4, 6, 3), value, np.uint8)
        return Sample(image, np.array([[1, 1, 3, 3]], np.float32), np.array([value]), [[ring]], semantic_mask)

    square = tile([plain(n) for n in range(3)])
    assert square.image[::4, ::6, 0].tolist() == [[0, 1], [2, 114]]
    assert square.semantic_mask is not None
    assert square.semantic_mask[::4, ::6].tolist() == [[0, 1], [2, 255]]
    assert square.boxes_xyxy.tolist() == [[1, 1, 3, 3], [7, 1, 9, 3], [1, 5, 3, 7]]
    assert square.polygons is not None
    assert square.polygons[2][0].tolist() == [[1, 5], [3, 5], [3, 7]]
    double = upscale(plain(9))
    assert double.image.shape == (8, 12, 3)
    assert double.boxes_xyxy.tolist() == [[2, 2, 6, 6]]
    assert double.semantic_mask is not None
    assert (double.semantic_mask == 9).all()
    assert double.semantic_mask.shape == (8, 12)


def test_quad_batches_have_both_kinds(index: ImageIndex) -> None:
    loader = build_loader(dataset(index), batch_size=8, workers=0, quad=True, seed=1)
    sizes, shapes = [], set()
    for epoch in range(4):
        loader.set_epoch(epoch)
        for batch in loader:
            sizes.append(len(batch))
            shapes.add(tuple(batch.images.shape[2:]))
    assert sizes == [2, 1] * 4  # 8 images, then 2
    assert shapes == {(128, 128)}


def test_weights_by_hand(index: ImageIndex) -> None:
    weights = class_weights(index, 4)  # counts 7, 7, 6, none
    raw = np.array([1 / 7, 1 / 7, 1 / 6, 1])
    np.testing.assert_allclose(weights, raw / raw.sum())
    per_image = image_weights(index, np.array([1.0, 10, 100, 0]))
    assert per_image.tolist() == [11, 101, 110, 11, 101, 110, 11, 101, 110, 11]
    assert image_weights(index.subset([]), weights).shape == (0,)


def test_weighted_order_follows_the_weights(index: ImageIndex) -> None:
    loader = build_loader(dataset(index, augment=False), batch_size=10, workers=0, shuffle=True)
    chances = np.zeros(10)
    chances[3], chances[7] = 1, 3
    drawn = []
    for epoch in range(30):
        loader.set_epoch(epoch, chances)
        drawn += [path for batch in loader for path in batch.paths]
    assert set(drawn) == {index.paths[3], index.paths[7]}
    assert 0.65 < drawn.count(index.paths[7]) / len(drawn) < 0.85
    loader.set_epoch(0, np.zeros(10))  # no label found worth a weight: every image once
    assert sorted(path for batch in loader for path in batch.paths) == index.paths


def test_weights_are_ignored_with_rect(index: ImageIndex, caplog: pytest.LogCaptureFixture) -> None:
    loader = build_loader(dataset(index, augment=False, rect=True, batch_size=5), batch_size=5, workers=0)
    with caplog.at_level("WARNING", logger="openyolov5"):
        for epoch in range(2):
            loader.set_epoch(epoch, np.ones(10))
    assert caplog.text.count("--image-weights is ignored with --rect") == 1
    assert sorted(path for batch in loader for path in batch.paths) == index.paths


def test_loading_does_not_change_the_global_generator(index: ImageIndex) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(build_loader(dataset(index), batch_size=4, workers=0, shuffle=True))
    assert torch.equal(torch.rand(3), expected)


def test_no_images(index: ImageIndex) -> None:
    assert list(build_loader(dataset(index.subset([])), batch_size=4, workers=0)) == []


@pytest.mark.parametrize("quad", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_vanished_image_is_a_one_line_error(
    index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, quad: bool
) -> None:
    monkeypatch.setattr("utils.datasets.loader.available_cpus", lambda: 2)
    gone = replace(index, paths=[*index.paths[:9], str(tmp_path / "gone.png")])
    loader = build_loader(dataset(gone, augment=False), batch_size=5, workers=workers, quad=quad)
    if quad:  # which may not load the last image of a batch
        monkeypatch.setattr("utils.datasets.loader.upscale", lambda sample: sample)
        gone.paths[5:] = gone.paths[9:] * 5
    with pytest.raises(InputError, match=r"gone\.png: No such file or directory; it was readable before.*restart$"):
        list(loader)
    assert isinstance(loader.dataset, DetectionDataset)
