"""Masks of augmented samples against their pixels: a bright object with a hole and a part inside it, on gray."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from utils.config.hyp import Hyperparameters
from utils.core.types import Sample
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import load_index
from utils.datasets.loader import build_loader, collate
from utils.datasets.masks import MaskBuilder
from utils.imaging.read import imwrite
from utils.ops.rle import encode_rle


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """One image of 80x60 pixels whose object is labelled by a run-length code."""
    root = tmp_path_factory.mktemp("holes")
    shown = np.zeros((60, 80), bool)
    shown[5:50, 10:70], shown[15:40, 25:55], shown[22:30, 35:45] = True, False, True
    imwrite(root / "a.png", np.where(shown[..., None], 250, 90).repeat(3, axis=2).astype(np.uint8))
    label = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 60, 45]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}],
        "annotations": [label | {"segmentation": encode_rle(shown, (0, 0), (60, 80))}],
        "categories": [{"id": 1, "name": "ring"}],
    }
    (root / "i.json").write_text(json.dumps(content))
    source = "{images: ., annotations: i.json}"
    (root / "d.yaml").write_text(f"train: {source}\nval: {source}\nnames: [ring]\n")
    return load_index(load_spec(root / "d.yaml"), "train")


@pytest.mark.parametrize(
    "strengths",
    [
        {"mosaic": 0.0},
        {"mosaic": 1.0},
        {"mosaic": 1.0, "degrees": 30.0, "shear": 5.0, "perspective": 0.0005},
        {"mosaic": 1.0, "fliplr": 1.0, "flipud": 1.0},
        {"mosaic": 1.0, "copy_paste": 1.0},
        {"mosaic": 1.0, "mosaic9": 1.0},
    ],
    ids=lambda strengths: "-".join(strengths),
)
def test_masks_move_with_the_pixels(index: ImageIndex, strengths: dict[str, float]) -> None:
    hyp = Hyperparameters(**({"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "fliplr": 0.5} | strengths))
    data = DetectionDataset(index, imgsz=128, hyp=hyp, augment=True)
    data.pipeline = None
    lit = wrong = 0
    for epoch in range(12):
        sample = data[(epoch, 0)]
        mask, bright = MaskBuilder(1, overlap=True)([sample])[0].numpy() > 0, sample.image[..., 0] > 180
        lit += bright.sum()
        wrong += (mask != bright).sum()
    assert lit > 10000 and wrong < 0.06 * lit  # pixels of edges, which are blended in the image


def square(x: float, size: float) -> list[np.ndarray]:
    return [np.array([[x, x], [x + size, x], [x + size, x + size], [x, x + size]])]


def sample_of(*polygons: list[np.ndarray]) -> Sample:
    corners = [np.concatenate([ring.min(axis=0), ring.max(axis=0)]) for (ring,) in polygons]
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    return Sample(np.zeros((32, 64, 3), np.uint8), boxes, np.zeros(len(polygons), np.int64), list(polygons))


def test_dense_masks_and_index_maps() -> None:
    samples = [sample_of(square(4, 8), square(0, 24)), sample_of(), sample_of(square(8, 16))]
    apart = collate(samples, masks=MaskBuilder(4)).masks
    packed = collate(samples, masks=MaskBuilder(4, overlap=True)).masks
    assert apart is not None and apart.dtype == torch.bool and apart.shape == (3, 8, 16)
    assert packed is not None and packed.dtype == torch.int16 and packed.shape == (3, 8, 16)
    assert torch.equal(packed[0] == 1, apart[0]) and torch.equal(packed[0] > 0, apart[0] | apart[1])
    assert packed[1].max() == 0 and torch.equal(packed[2] == 1, apart[2])
    assert collate(samples).masks is None
    assert collate([sample_of()], masks=MaskBuilder(4)).masks.shape == (0, 8, 16)  # type: ignore[union-attr]


def test_workers_draw_the_same_masks(index: ImageIndex) -> None:
    images = index.subset([0, 0, 0, 0])
    batches = []
    for workers in (0, 2):
        data = DetectionDataset(images, imgsz=64, hyp=Hyperparameters(), augment=True)
        (batch,) = build_loader(data, batch_size=4, workers=workers, masks=MaskBuilder(4, overlap=True))
        assert batch.masks is not None
        batches.append(batch.masks)
    assert torch.equal(*batches)
