"""COCO's own metrics for any data set: labels and detections as COCO JSON, measured by COCO's program."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.image_index import ImageIndex
from utils.ops.boxes import xywhn_to_xyxy, xyxy_to_ltwh
from utils.ops.masks import rasterize, signed_area

UNUSED_COCO_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = [number for number in range(1, 91) if number not in UNUSED_COCO_IDS]  # of the 80 classes in use
OverlapOf = Literal["bbox", "segm"]
STATS = ("map", "map50", "map75", "map_small", "map_medium", "map_large")  # the first six COCO reports


@dataclass(frozen=True)
class CocoMetrics:
    """What COCO's program found; 0 where there was nothing to measure.

    Attributes:
        map: mean over IoU 0.5:0.05:0.95 of the average precision.
        map50, map75: at one IoU.
        map_small, map_medium, map_large: of boxes up to 32², up to 96² and above, square pixels.
        summary: text for the user.
    """

    map: float
    map50: float
    map75: float
    map_small: float
    map_medium: float
    map_large: float
    summary: str


def image_id(path: str | Path) -> int | str:
    """COCO's number of an image: its file name without suffix, as an int where that is one."""
    stem = Path(path).stem
    return int(stem) if stem.isdecimal() else stem


def category_id(class_number: int, *, coco_ids: bool) -> int:
    """The class number, or with `coco_ids` the number that the COCO set gives the class."""
    return COCO_IDS[class_number] if coco_ids else class_number


def index_to_coco(index: ImageIndex, *, coco_ids: bool = False, masks: bool = False) -> dict[str, Any]:
    """A split's labels as COCO ground truth (`images`, `annotations`, `categories`), boxes in original pixels.

    Args:
        coco_ids: number the classes as the COCO set does.
        masks: with the `segmentation` of each object, from whose polygons its area is then taken.
    """
    ids = [image_id(path) for path in index.paths]
    if clashes := len(ids) - len(set(ids)):
        LOGGER.warning(f"COCO JSON: {clashes} images share their file name with others and cannot be told apart")
    images = [
        {"id": number, "file_name": Path(path).name, "height": int(height), "width": int(width)}
        for number, path, (height, width) in zip(ids, index.paths, index.sizes_hw, strict=True)
    ]
    image = np.repeat(np.arange(len(index)), np.diff(index.offsets))  # (M,)
    sizes_wh = index.sizes_hw[image, ::-1].astype(np.float64)
    boxes_ltwh = xyxy_to_ltwh(xywhn_to_xyxy(index.boxes_xywhn.astype(np.float64), (1, 1))) * np.tile(sizes_wh, 2)
    annotations = [
        {
            "id": number,  # from 1: the program takes 0 for "no match"
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
    """Polygons of an object in pixels, or a run-length code where there are holes, and its area."""
    height, width = size_hw.tolist()
    moved = [ring.astype(np.float64) * (width, height) for ring in rings]
    areas = [signed_area(ring) for ring in moved]
    if min(areas, default=0.0) < 0 < max(areas, default=0.0):
        masks = rasterize([moved], (height, width))
        return {"segmentation": masks.rles()[0], "area": int(masks.areas[0])}
    return {"segmentation": [ring.ravel().tolist() for ring in moved], "area": abs(sum(areas))}


def predictions_to_coco(detections: Tensor, path: str | Path, *, coco_ids: bool = False) -> list[dict[str, Any]]:
    """Detections of one image as items of a COCO results file.

    Args:
        detections: (n, 6+) x1, y1, x2, y2, score, class in original pixels.
        path: the image's file.
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
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], *, of: OverlapOf = "bbox"
) -> CocoMetrics:
    """Measure predictions with faster-coco-eval, or else pycocotools, whichever is installed.

    The mAP differs a little from that of `utils.metrics.ap`: 0.4581 against 0.4597 on BCCD's val split with a
    fine-tuned yolov5n at a score threshold of 0.001. Our program with the changes below gives COCO's value to four
    digits. The causes, with their share there:

    - The end of the curve (0.0013). Ours falls in a straight line from the last recall reached to precision 0 at
      recall 1 and counts the triangle under it; COCO counts nothing past the last recall. With a higher score
      threshold the curve ends early at high precision, the triangle grows, and the two differ by much more.
    - COCO looks at the best 100 detections of a class in an image, ours at all that NMS leaves (0.0002).
    - Between recalls ours joins precisions by straight lines and integrates; COCO averages 101 steps (0.0001).
    - Matching (less than 0.0001). A detection of ours stands for the label it overlaps best and for no other; COCO's
      takes the next best label that is still free. It matters where objects of a class overlap each other much.

    Args:
        ground_truth: what `index_to_coco` gives.
        predictions: items of `predictions_to_coco`; those of images that the ground truth lacks are left out.
        of: what has to overlap: "bbox", or "segm" for masks, which then both must have.

    Raises:
        InputError: neither program is installed.
    """
    name, make_coco, make_evaluator = _find_program()
    numbers = {image["id"]: number for number, image in enumerate(ground_truth["images"], start=1)}
    items = [{**item, "image_id": numbers[item["image_id"]]} for item in predictions if item["image_id"] in numbers]
    if not items or not ground_truth["annotations"]:
        return _metrics(name, [0.0] * len(STATS), len(numbers), of)
    with contextlib.redirect_stdout(io.StringIO()):  # both programs print their progress
        truth = make_coco()
        truth.dataset = _with_numbers(ground_truth, numbers)
        truth.createIndex()
        evaluator = make_evaluator(truth, truth.loadRes(items), of)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return _metrics(name, [max(float(value), 0.0) for value in evaluator.stats[: len(STATS)]], len(numbers), of)


def _with_numbers(ground_truth: Mapping[str, Any], numbers: Mapping[int | str, int]) -> dict[str, Any]:
    """Ground truth whose images are numbered; the programs fail on names and on names mixed with numbers."""
    return {
        "info": {},
        "images": [{**image, "id": numbers[image["id"]]} for image in ground_truth["images"]],
        "annotations": [{**item, "image_id": numbers[item["image_id"]]} for item in ground_truth["annotations"]],
        "categories": list(ground_truth["categories"]),
    }


def _find_program() -> tuple[str, Any, Any]:
    """Name, COCO class and evaluator class of the program at hand."""
    with contextlib.suppress(ImportError):
        from faster_coco_eval import COCO, COCOeval_faster

        return "faster-coco-eval", COCO, COCOeval_faster
    with contextlib.suppress(ImportError):
        import pycocotools.coco as plain
        from pycocotools.cocoeval import COCOeval

        return "pycocotools", plain.COCO, COCOeval
    raise InputError("COCO metrics need a program that is not installed: pip install faster-coco-eval")


def _metrics(name: str, stats: Sequence[float], num_images: int, of: OverlapOf) -> CocoMetrics:
    """Named values and the summary line."""
    values = dict(zip(STATS, stats, strict=True))
    subject = "mask metrics" if of == "segm" else "metrics"
    summary = (
        f"COCO {subject} of {num_images} images ({name}): mAP50-95 {values['map']:.4f}, mAP50 {values['map50']:.4f}, "
        f"mAP75 {values['map75']:.4f}; small {values['map_small']:.3f}, medium {values['map_medium']:.3f}, "
        f"large {values['map_large']:.3f}"
    )
    return CocoMetrics(summary=summary, **values)
