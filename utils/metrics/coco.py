"""COCO metrics of any data set by faster-coco-eval or pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.image_index import ImageIndex
from utils.ops.boxes import xywhn_to_xyxy, xyxy_to_ltwh
from utils.ops.masks import rasterize, signed_area

UNUSED_COCO_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = [number for number in range(1, 91) if number not in UNUSED_COCO_IDS]  # of the 80 classes
IoUType = Literal["bbox", "segm"]


class CocoMetrics(NamedTuple):
    """COCO metrics; 0 if undefined.

    Attributes:
        summary: one-line summary.
        map: mean AP over IoU 0.5:0.05:0.95.
        map50, map75: mAP at one IoU.
        map_small, map_medium, map_large: mAP of objects up to 32², up to 96² and above, in square pixels.
    """

    summary: str
    map: float
    map50: float
    map75: float
    map_small: float
    map_medium: float
    map_large: float


def image_id(path: str | Path) -> int | str:
    """COCO image id: the file name without suffix, as an int if it is a number."""
    stem = Path(path).stem
    return int(stem) if stem.isdecimal() else stem


def category_id(class_number: int, *, coco_ids: bool) -> int:
    """COCO category id: the class number, or with `coco_ids` the id of the class in the COCO data set."""
    return COCO_IDS[class_number] if coco_ids else class_number


def index_to_coco(index: ImageIndex, *, coco_ids: bool = False, masks: bool = False) -> dict[str, Any]:
    """Convert the labels of a split to COCO ground truth (`images`, `annotations`, `categories`).

    Args:
        coco_ids: use the category ids of the COCO data set.
        masks: add the `segmentation` of each object and take its area from the polygons.
    """
    ids = [image_id(path) for path in index.paths]
    if duplicates := len(ids) - len(set(ids)):
        LOGGER.warning(f"COCO JSON: {duplicates} images have the same file name as others, so their ids are not unique")
    images = [
        {"id": number, "file_name": Path(path).name, "height": int(height), "width": int(width)}
        for number, path, (height, width) in zip(ids, index.paths, index.sizes_hw, strict=True)
    ]
    image = np.repeat(np.arange(len(index)), np.diff(index.offsets))  # (M,)
    sizes_wh = index.sizes_hw[image, ::-1].astype(np.float64)
    boxes_ltwh = xyxy_to_ltwh(xywhn_to_xyxy(index.boxes_xywhn.astype(np.float64), (1, 1))) * np.tile(sizes_wh, 2)
    annotations = [
        {
            "id": number,  # from 1: COCO treats 0 as "no match"
            "image_id": ids[i],
            "category_id": category_id(int(c), coco_ids=coco_ids),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (i, c, box) in enumerate(zip(image, index.classes, boxes_ltwh.tolist(), strict=True), start=1)
    ]
    if masks and index.polygons is not None:
        for number, (annotation, i) in enumerate(zip(annotations, image, strict=True)):
            annotation |= _segmentation(index.polygons.rings(number), index.sizes_hw[i])
    categories = [{"id": category_id(c, coco_ids=coco_ids), "name": name} for c, name in index.names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _segmentation(rings: Sequence[np.ndarray], size_hw: np.ndarray) -> dict[str, Any]:
    """Polygons in pixels, or RLE for an object with holes, and the area."""
    height, width = size_hw.tolist()
    rings_px = [ring.astype(np.float64) * (width, height) for ring in rings]
    areas = [signed_area(ring) for ring in rings_px]
    if min(areas, default=0.0) < 0 < max(areas, default=0.0):
        masks = rasterize([rings_px], (height, width))
        return {"segmentation": masks.rles()[0], "area": int(masks.areas[0])}
    return {"segmentation": [ring.ravel().tolist() for ring in rings_px], "area": abs(sum(areas))}


def predictions_to_coco(detections: Tensor, path: str | Path, *, coco_ids: bool = False) -> list[dict[str, Any]]:
    """Convert the detections of one image to items of a COCO results file.

    Args:
        detections: (n, 6+) x1, y1, x2, y2, score, class in original pixels.
        path: image file.
    """
    rows = detections.detach().cpu().to(torch.float64)
    number = image_id(path)
    return [
        {
            "image_id": number,
            "category_id": category_id(int(class_number), coco_ids=coco_ids),
            "bbox": [round(value, 3) for value in box],
            "score": round(score, 5),
        }
        for box, (score, class_number) in zip(xyxy_to_ltwh(rows[:, :4]).tolist(), rows[:, 4:6].tolist(), strict=True)
    ]


def evaluate_coco(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], *, iou_type: IoUType = "bbox"
) -> CocoMetrics:
    """Evaluate predictions with faster-coco-eval or, if it is not installed, pycocotools.

    The mAP differs slightly from `utils.metrics.ap`: 0.4581 instead of 0.4597 on the val split of BCCD with a
    fine-tuned yolov5n at a score threshold of 0.001. The differences, with their size in this case:

    - End of the curve (0.0013). `utils.metrics.ap` adds the triangle from the last recall to precision 0 at recall 1,
      COCO nothing. With a higher score threshold the curve ends earlier and the difference is much larger.
    - COCO evaluates the best 100 detections per class and image, `utils.metrics.ap` all (0.0002).
    - Between recalls `utils.metrics.ap` interpolates linearly and integrates; COCO averages 101 steps (0.0001).
    - Matching (below 0.0001). In `utils.metrics.ap` a detection can only match the label of highest IoU; in COCO also
      the next best label that is still unmatched, which matters for strongly overlapping objects of a class.

    Args:
        ground_truth: from `index_to_coco`.
        predictions: items of `predictions_to_coco`; images that are not in the ground truth are ignored.
        iou_type: "bbox", or "segm" for masks, which both inputs must have then.

    Raises:
        InputError: neither package is installed.
    """
    package, coco_class, evaluator_class = _import_coco()
    numbers = {image["id"]: number for number, image in enumerate(ground_truth["images"], start=1)}
    items = [{**item, "image_id": numbers[item["image_id"]]} for item in predictions if item["image_id"] in numbers]
    if not items or not ground_truth["annotations"]:
        return _build_metrics(package, [0.0] * 6, len(numbers), iou_type)
    with contextlib.redirect_stdout(io.StringIO()):  # both packages print their progress
        truth = coco_class()
        truth.dataset = _number_images(ground_truth, numbers)
        truth.createIndex()
        evaluator = evaluator_class(truth, truth.loadRes(items), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats = [max(float(value), 0.0) for value in evaluator.stats[:6]]
    return _build_metrics(package, stats, len(numbers), iou_type)


def _number_images(ground_truth: Mapping[str, Any], numbers: Mapping[int | str, int]) -> dict[str, Any]:
    """Replace image ids by numbers: the packages do not support strings."""
    return {
        "info": {},
        "images": [{**image, "id": numbers[image["id"]]} for image in ground_truth["images"]],
        "annotations": [{**item, "image_id": numbers[item["image_id"]]} for item in ground_truth["annotations"]],
        "categories": list(ground_truth["categories"]),
    }


def _import_coco() -> tuple[str, Any, Any]:
    """Name, COCO class and evaluator class of the installed package."""
    with contextlib.suppress(ImportError):
        from faster_coco_eval import COCO, COCOeval_faster

        return "faster-coco-eval", COCO, COCOeval_faster
    with contextlib.suppress(ImportError):
        import pycocotools.coco as pycoco
        from pycocotools.cocoeval import COCOeval

        return "pycocotools", pycoco.COCO, COCOeval
    raise InputError("COCO metrics need a package that is not installed: pip install faster-coco-eval")


def _build_metrics(package: str, stats: Sequence[float], num_images: int, iou_type: IoUType) -> CocoMetrics:
    subject = "mask metrics" if iou_type == "segm" else "metrics"
    summary = (
        f"COCO {subject} of {num_images} images ({package}): mAP50-95 {stats[0]:.4f}, mAP50 {stats[1]:.4f}, "
        f"mAP75 {stats[2]:.4f}; small {stats[3]:.3f}, medium {stats[4]:.3f}, large {stats[5]:.3f}"
    )
    return CocoMetrics(summary, *stats)
