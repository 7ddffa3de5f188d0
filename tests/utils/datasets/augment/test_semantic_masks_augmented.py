"""Every augmentation moves image, semantic mask, boxes and polygons together: the classes are painted as colors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils.config.hyp import Hyperparameters
from utils.core.types import Sample
from utils.datasets.augment.transforms import flip, mixup
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.datasets.loader import load_quad
from utils.datasets.semantic import SemanticAugmentation, SemanticDataset
from utils.ops.semantic_masks import decode_semantic_mask

COLORS = np.array([[40, 60, 80], [250, 30, 30], [30, 250, 30], [30, 30, 250], [240, 240, 20]], np.uint8)  # BGR
NO_EFFECT = {"transform": {"__class_fullname__": "NoOp", "p": 1.0}}
STILL = Hyperparameters(
    hsv_h=0, hsv_s=0, hsv_v=0, degrees=0, translate=0, scale=0, fliplr=0, mosaic=0, albumentations=NO_EFFECT
)
AGREE = 0.97  # of the pixels away from edges


def paint(rng: np.random.Generator, size_hw: tuple[int, int]) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """A semantic mask of three rotated rectangles on background, and their corners in pixels."""
    height, width = size_hw
    semantic_mask, rings, classes = np.zeros(size_hw, np.uint8), [], []
    for n in range(3):
        center = (width * (0.2 + 0.3 * n), height * rng.uniform(0.3, 0.7))
        corners = cv2.boxPoints((center, (0.18 * width, 0.3 * height), rng.uniform(0, 90)))
        classes.append(int(rng.integers(1, len(COLORS))))
        rings.append(np.rint(corners).astype(np.float32))
        cv2.fillPoly(semantic_mask, [rings[-1].astype(np.int32)], classes[-1])
    return semantic_mask, rings, classes


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """Six painted images of three shapes with boxes, polygons and semantic masks."""
    folder, rng = tmp_path_factory.mktemp("painted"), np.random.default_rng(0)
    sizes = [(120, 160), (160, 120), (144, 144)] * 2
    paths, maps, classes, boxes, table = [], [], [], [], []
    for n, size_hw in enumerate(sizes):
        semantic_mask, rings, own = paint(rng, size_hw)
        paths.append(str(folder / f"{n}.png"))
        maps.append(str(folder / f"{n}_map.png"))
        cv2.imwrite(paths[-1], COLORS[semantic_mask])
        cv2.imwrite(maps[-1], semantic_mask)
        for ring, number in zip(rings, own, strict=True):
            shape = np.clip(ring / (size_hw[1], size_hw[0]), 0, 1).astype(np.float32)
            low, high = shape.min(axis=0), shape.max(axis=0)
            boxes.append([*(low + high) / 2, *(high - low)])
            classes.append(number)
            table.append([shape])
    return ImageIndex(
        paths,
        np.array(sizes, np.int32),
        compute_offsets([3] * len(sizes)),
        np.array(classes, np.int32),
        np.array(boxes, np.float32),
        {n: str(n) for n in range(len(COLORS))},
        PolygonTable.from_lists(table),
        maps,
    )


def seen(image: np.ndarray, *, gains: float = 1.0) -> np.ndarray:
    """(H, W) the class whose color each pixel is nearest to; 255 for the gray of borders."""
    palette = np.concatenate([COLORS, [[114, 114, 114]]]).astype(np.float32) * gains
    distance = np.abs(image[:, :, None].astype(np.float32) - palette).sum(axis=3)
    nearest = distance.argmin(axis=2)
    return np.where(nearest == len(COLORS), 255, nearest).astype(np.uint8)


def away_from_edges(semantic_mask: np.ndarray) -> np.ndarray:
    """Pixels more than two from one of another class."""
    kernel = np.ones((5, 5), np.uint8)
    inner = cv2.erode(semantic_mask, kernel) == cv2.dilate(semantic_mask, kernel)
    inner[[0, 1, -2, -1]], inner[:, [0, 1, -2, -1]] = False, False
    return inner


def check(sample: Sample, *, objects: bool = True) -> None:
    """The map shows what the image shows, and objects lie where their class is."""
    assert sample.semantic_mask is not None
    inner = away_from_edges(sample.semantic_mask)
    assert inner.mean() > 0.4
    assert (seen(sample.image) == sample.semantic_mask)[inner].mean() > AGREE
    if not objects:
        return
    assert sample.polygons is not None
    assert len(sample.polygons) == len(sample.boxes_xyxy) == len(sample.classes)
    for rings, box in zip(sample.polygons, sample.boxes_xyxy, strict=True):
        points = np.concatenate(rings)
        np.testing.assert_allclose([*points.min(axis=0), *points.max(axis=0)], box, atol=1)
    drawn = [np.zeros(sample.semantic_mask.shape, np.uint8) for _ in COLORS]
    for rings, number in zip(sample.polygons, sample.classes, strict=True):
        for ring in rings:
            cv2.fillPoly(drawn[number], [np.rint(ring - 0.5).astype(np.int32)], 1)
    for number in range(1, len(COLORS)):
        own = (sample.semantic_mask == number) & inner
        if own.sum() > 100:  # an object of which little is left has lost its label, its pixels keep their class
            assert drawn[number][own].mean() > 0.9


RECIPES = {
    "fitted alone": STILL,
    "affine": replace(STILL, degrees=25, translate=0.2, scale=0.4, shear=8),
    "perspective": replace(STILL, degrees=10, scale=0.3, perspective=0.0006),
    "mosaic": replace(STILL, mosaic=1.0, scale=0.5, translate=0.1),
    "mosaic, turned": replace(STILL, mosaic=1.0, scale=0.3, degrees=20, shear=5, perspective=0.0003),
    "mosaic of nine": replace(STILL, mosaic=1.0, mosaic9=1.0, scale=0.2),
    "copy-paste": replace(STILL, mosaic=1.0, copy_paste=0.6),
    "cutmix": replace(STILL, cutmix=1.0),
    "cutmix of mosaics": replace(STILL, cutmix=1.0, mosaic=1.0, degrees=10, scale=0.3),
    "flips": replace(STILL, fliplr=1.0, flipud=1.0),
    "all": replace(STILL, mosaic=1.0, copy_paste=0.4, degrees=10, scale=0.4, fliplr=0.5, flipud=0.5),
}


@pytest.mark.parametrize("name", RECIPES)
def test_detection_samples(index: ImageIndex, name: str) -> None:
    dataset = DetectionDataset(index, imgsz=160, hyp=RECIPES[name], augment=True)
    for i in range(len(index)):
        check(dataset[1, i])


@pytest.mark.parametrize("rect", [False, True])
def test_validation_samples(index: ImageIndex, rect: bool) -> None:
    dataset = DetectionDataset(index, imgsz=192, hyp=STILL, augment=False, rect=rect, batch_size=2)
    for i in range(len(index)):
        sample = dataset[i]
        check(sample)
        assert sample.original_mask is not None
        assert sample.original_mask.shape == tuple(dataset.index.sizes_hw[i])
        np.testing.assert_array_equal(sample.original_mask, cv2.imread(dataset.index.semantic_masks[i], 0))  # type: ignore[index]


@pytest.mark.parametrize(("imgsz", "rect"), [(192, True), (192, False), (64, True), (320, False)])
def test_inverse_letterbox_restores_the_original_mask(index: ImageIndex, imgsz: int, rect: bool) -> None:
    """A network that answers with its label, the border as a class of its own, is right at the image's own size."""
    count = len(COLORS) + 1
    dataset = SemanticDataset(index, imgsz=imgsz, hyp=STILL, augment=False, rect=rect, batch_size=2)
    for i in range(len(index)):
        sample = dataset[i]
        assert sample.letterbox is not None
        assert sample.semantic_mask is not None
        assert sample.original_mask is not None
        shown = torch.from_numpy(np.minimum(sample.semantic_mask, count - 1)).long()
        found = decode_semantic_mask(F.one_hot(shown, count).permute(2, 0, 1).float(), sample.letterbox).numpy()
        inner = away_from_edges(sample.original_mask)
        assert (found == sample.original_mask)[inner].mean() > AGREE
        assert (found < count - 1).all()


@pytest.mark.parametrize("mosaic", [False, True])
@pytest.mark.parametrize("hyp", [STILL, RECIPES["all"]], ids=["still", "all"])
def test_semantic_samples(index: ImageIndex, mosaic: bool, hyp: Hyperparameters) -> None:
    plain = SemanticAugmentation(160, (128, 160), low=0.6, high=2.0, brightness=0, contrast=0, saturation=0)
    chance = replace(hyp, mosaic=1.0)
    dataset = SemanticDataset(index, imgsz=160, hyp=chance, augment=True, augmentation=plain, mosaic=mosaic)
    for i in range(len(index)):
        for epoch in range(3):
            sample = dataset[epoch, i]
            assert sample.image.shape == (128, 160, 3)
            check(sample)


def pipeline(*transforms: object) -> Hyperparameters:
    albumentations = pytest.importorskip("albumentations", reason="Albumentations is optional")
    return replace(STILL, albumentations=albumentations.to_dict(albumentations.Compose(list(transforms))))


EFFECTS: dict[str, Callable[[object], list[object]]] = {
    "affine": lambda a: [a.Affine(translate_percent=0.2, rotate=(20, 30), scale=(0.6, 0.8), fill=114, p=1)],  # type: ignore[attr-defined]
    "rotate": lambda a: [a.SafeRotate(limit=(30, 40), fill=114, p=1)],  # type: ignore[attr-defined]
    "perspective": lambda a: [a.Perspective(scale=(0.1, 0.15), fill=(114, 114, 114), p=1)],  # type: ignore[attr-defined]
    "crop and resize": lambda a: [a.RandomResizedCrop((160, 160), scale=(0.3, 0.6), p=1)],  # type: ignore[attr-defined]
    "linear masks": lambda a: [a.Affine(rotate=(15, 15), fill=114, mask_interpolation=cv2.INTER_LINEAR, p=1)],  # type: ignore[attr-defined]
    "inner pipeline": lambda a: [a.OneOf([a.HorizontalFlip(p=1), a.Rotate(limit=(40, 40), fill=114, p=1)], p=1)],  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("kind", [DetectionDataset, SemanticDataset])
def test_albumentations(index: ImageIndex, name: str, kind: type[DetectionDataset]) -> None:
    albumentations = pytest.importorskip("albumentations", reason="Albumentations is optional")
    hyp = pipeline(*EFFECTS[name](albumentations))
    options = {}
    if kind is SemanticDataset:
        options["augmentation"] = SemanticAugmentation(160, (160, 160), brightness=0, contrast=0, saturation=0)
    dataset = kind(index, imgsz=160, hyp=hyp, augment=True, **options)
    for i in range(len(index)):
        sample = dataset[1, i]
        check(sample)
        assert set(np.unique(sample.semantic_mask)) <= {0, 1, 2, 3, 4, 255}


def test_mixup_keeps_the_mask_of_the_larger_share(index: ImageIndex) -> None:
    dataset = DetectionDataset(index, imgsz=160, hyp=STILL, augment=True)
    first, second = dataset[0, 0], dataset[0, 3]
    kept = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        share = np.random.default_rng(seed).beta(32, 32)
        out = mixup(first, second, rng)
        stronger, weaker, part = (first, second, share) if share >= 0.5 else (second, first, 1 - share)
        rest = (out.image.astype(np.float32) - (1 - part) * weaker.image) / part
        check(replace(stronger, image=np.clip(np.rint(rest), 0, 255).astype(np.uint8), semantic_mask=out.semantic_mask))
        kept.add(share >= 0.5)
    assert kept == {True, False}


@pytest.mark.parametrize("axis", [0, 1])
def test_flips(index: ImageIndex, axis: int) -> None:
    check(flip(DetectionDataset(index, imgsz=160, hyp=STILL, augment=True)[0, 0], axis=axis))


def test_quads(index: ImageIndex) -> None:
    dataset = DetectionDataset(index, imgsz=96, hyp=STILL, augment=True)
    sizes = set()
    for epoch in range(6):
        sample = load_quad(dataset, [(epoch, i) for i in range(4)], seed=0)
        check(sample)
        sizes.add(len(sample.classes))
    assert len(sizes) == 2  # enlarged and tiled ones


def test_the_border_is_ignored(index: ImageIndex) -> None:
    small = SemanticAugmentation(64, (160, 192), low=1, high=1, brightness=0, contrast=0, saturation=0)
    sample = SemanticDataset(index, imgsz=160, hyp=STILL, augment=True, augmentation=small)[0, 0]
    assert sample.semantic_mask is not None
    assert (sample.semantic_mask[48:] == 255).all()
    assert (sample.semantic_mask[:, 64:] == 255).all()
    assert (sample.semantic_mask[:48, :64] != 255).all()
    assert (sample.image[48:] == 114).all()
