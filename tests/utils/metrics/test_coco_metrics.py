from __future__ import annotations

import builtins
import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from utils.core.errors import InputError
from utils.datasets.index.image_index import ImageIndex, PolygonTable
from utils.metrics import coco
from utils.metrics.coco import COCO_IDS, evaluate_coco, index_to_coco, predictions_to_coco
from utils.ops.masks import rasterize

PACKAGES = ["faster_coco_eval", "pycocotools"]


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Hide installed packages."""
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in packages:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.fixture
def index() -> ImageIndex:
    """Two images with labels, one without; names and numbers mixed."""
    return ImageIndex(
        paths=["a/0012.jpg", "a/cat.jpg", "a/7.png"],
        sizes_hw=np.array([[100, 200], [50, 50], [10, 10]], np.int32),
        offsets=np.array([0, 2, 3, 3]),
        classes=np.array([0, 2, 0], np.int32),
        boxes_xywhn=np.array([[0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.1, 0.2], [0.5, 0.5, 1, 1]], np.float32),
        names={0: "x", 1: "y", 2: "z"},
    )


def exact(index: ImageIndex) -> list[dict[str, Any]]:
    """Predictions that equal the labels."""
    first = torch.tensor([[50.0, 25, 150, 75, 0.9, 0], [10, 10, 30, 30, 0.8, 2]])
    second = torch.tensor([[0.0, 0, 50, 50, 0.7, 0]])
    return predictions_to_coco(first, index.paths[0]) + predictions_to_coco(second, index.paths[1])


def test_ground_truth(index: ImageIndex) -> None:
    truth = index_to_coco(index)
    assert [image["id"] for image in truth["images"]] == [12, "cat", 7]
    assert truth["images"][0] == {"id": 12, "file_name": "0012.jpg", "height": 100, "width": 200}
    first, second, third = truth["annotations"]
    assert first["bbox"] == pytest.approx([50, 25, 100, 50]) and first["area"] == pytest.approx(5000)
    assert second["bbox"] == pytest.approx([10, 10, 20, 20], abs=1e-4) and second["category_id"] == 2
    assert third["image_id"] == "cat" and [a["id"] for a in truth["annotations"]] == [1, 2, 3]
    assert [a["category_id"] for a in index_to_coco(index, coco_ids=True)["annotations"]] == [1, 3, 1]


def test_coco_category_ids() -> None:
    assert len(COCO_IDS) == 80
    assert (COCO_IDS[0], COCO_IDS[11], COCO_IDS[79]) == (1, 13, 90)  # person, stop sign, toothbrush


def test_prediction_items() -> None:
    rows = torch.tensor([[1.23456, 2.0, 11.23456, 22.5, 0.123456789, 79.0]])
    assert predictions_to_coco(rows, "dir/street.jpg", coco_ids=True) == [
        {"image_id": "street", "category_id": 90, "bbox": [1.235, 2.0, 10.0, 20.5], "score": 0.12346}
    ]
    assert predictions_to_coco(rows, "000042.jpg")[0]["image_id"] == 42
    assert predictions_to_coco(torch.zeros(0, 6), "a.jpg") == []
    assert rows[0, 2].item() == pytest.approx(11.23456)  # the caller's rows are unchanged


@pytest.mark.parametrize("package", PACKAGES)
def test_perfect_predictions(monkeypatch: pytest.MonkeyPatch, index: ImageIndex, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    hide(monkeypatch, *(set(PACKAGES) - {package}))
    metrics = evaluate_coco(index_to_coco(index), exact(index))
    assert (metrics.map, metrics.map50) == pytest.approx((1, 1))
    assert package.replace("_", "-") in metrics.summary and "mAP50-95 1.0000" in metrics.summary
    half = evaluate_coco(index_to_coco(index), exact(index)[1:])  # class z stays 1, class x finds one of two
    assert half.map == pytest.approx((1 + 51 / 101) / 2)  # recalls 0, 0.01 ... 0.5 are reached


def test_nothing_to_measure(index: ImageIndex) -> None:
    if not any(importlib.util.find_spec(package) for package in PACKAGES):
        pytest.skip("no COCO package is installed")
    assert evaluate_coco(index_to_coco(index), []).map == 0
    assert evaluate_coco(index_to_coco(index.subset([2])), exact(index)).map == 0
    elsewhere = predictions_to_coco(torch.tensor([[0.0, 0, 9, 9, 0.9, 0]]), "unknown.jpg")
    assert evaluate_coco(index_to_coco(index), elsewhere).map == 0


def test_missing_package(monkeypatch: pytest.MonkeyPatch, index: ImageIndex) -> None:
    hide(monkeypatch, *PACKAGES)
    with pytest.raises(InputError, match="pip install faster-coco-eval"):
        evaluate_coco(index_to_coco(index), exact(index))


def test_images_of_one_name_are_reported(monkeypatch: pytest.MonkeyPatch, index: ImageIndex) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(coco.LOGGER, "warning", warnings.append)
    index_to_coco(index.subset([0, 0, 1]))
    assert len(warnings) == 1 and "1 images have the same file name" in warnings[0]


def with_polygons(index: ImageIndex) -> ImageIndex:
    """The labels as polygons: a triangle, a square with a hole, a square of two parts."""
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    rings = [
        [np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75]], np.float32)],
        [square * (0.1, 0.2) + (0.05, 0.1), (square * (0.05, 0.1) + (0.075, 0.15))[::-1]],
        [square * (0.5, 1), square * (0.5, 1) + (0.5, 0)],
    ]
    return replace(index, polygons=PolygonTable.from_lists(rings))


def test_polygons_holes_and_areas_of_the_ground_truth(index: ImageIndex) -> None:
    triangle, holed, parts = index_to_coco(with_polygons(index), masks=True)["annotations"]
    assert triangle["segmentation"] == [[50, 25, 150, 25, 150, 75]] and triangle["area"] == 2500
    assert set(holed["segmentation"]) == {"size", "counts"} and 250 < holed["area"] < 350
    assert len(parts["segmentation"]) == 2 and parts["area"] == 2500
    assert "segmentation" not in index_to_coco(with_polygons(index))["annotations"][0]


@pytest.mark.parametrize("package", PACKAGES)
def test_mask_metrics_do_not_depend_on_boxes(package: str, index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package)
    hide(monkeypatch, *(name for name in PACKAGES if name != package))
    index = with_polygons(index)
    truth, items = index_to_coco(index, masks=True), exact(index)
    assert index.polygons is not None
    for number, (item, size_hw) in enumerate(zip(items, ((100, 200), (100, 200), (50, 50)), strict=True)):
        rings = [ring * size_hw[::-1] for ring in index.polygons.rings(number)]
        item["segmentation"] = rasterize([rings], size_hw).rles()[0]
    masks = evaluate_coco(truth, items, iou_type="segm")
    assert masks.map50 == pytest.approx(1) and masks.map > 0.8 and "COCO mask metrics" in masks.summary
    items[0]["segmentation"] = rasterize([[np.array([[50.0, 75], [50, 25], [90, 75]])]], (100, 200)).rles()[0]
    assert evaluate_coco(truth, items, iou_type="segm").map50 < 0.9
    assert evaluate_coco(truth, items).map50 == pytest.approx(1)
