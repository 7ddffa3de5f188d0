"""Matching and prediction files of one image, with the arguments of YOLOv5's val.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.metrics.ap import match_iou_matrix
from utils.metrics.coco import predictions_to_coco
from utils.ops.boxes import box_iou_matrix, xyxy_to_xywhn
from utils.ops.masks import ObjectMasks


def process_batch(detections: Tensor, labels: Tensor, iouv: Tensor) -> Tensor:
    """True positives (N, T) bool of one image at the T IoU thresholds `iouv`, by the IoU of boxes.

    Args:
        detections: (N, 6) x1, y1, x2, y2, score, class.
        labels: (M, 5) class, x1, y1, x2, y2 in the same frame.
    """
    return match_ious(box_iou_matrix(detections[:, :4], labels[:, 1:5]), detections, labels, iouv)


def match_ious(ious: Tensor, detections: Tensor, labels: Tensor, iouv: Tensor) -> Tensor:
    """True positives (N, T) bool, from the IoU (N, M) of detections and labels."""
    iou_rows, rows, label_rows = (values.detach().cpu().float().numpy() for values in (ious, detections, labels))
    return torch.from_numpy(match_iou_matrix(iou_rows, rows, label_rows, iouv)).to(iouv.device)


def save_one_txt(predn: Tensor, save_conf: bool, shape: Sequence[int], file: str | Path) -> None:
    """Append a line class, x, y, w, h (and score) to a text file for each detection, normalized to the image.

    Args:
        predn: (n, 6) x1, y1, x2, y2 in pixels of the image, score, class.
        shape: (height, width) of the image.
    """
    rows = predn.detach().cpu().double()
    boxes_xywhn = xyxy_to_xywhn(rows[:, :4], (int(shape[0]), int(shape[1])))
    columns = [rows[:, 5:6], boxes_xywhn, *([rows[:, 4:5]] if save_conf else [])]
    with Path(file).open("a", encoding="utf-8") as text:
        text.writelines(" ".join(f"{value:g}" for value in row) + "\n" for row in torch.cat(columns, 1).tolist())


def save_one_json(
    predn: Tensor,
    jdict: list[dict[str, Any]],
    path: str | Path,
    class_map: Sequence[int] | Mapping[int, int],
    pred_masks: np.ndarray | None = None,
) -> None:
    """Append the detections of one image to a list of COCO results.

    Args:
        predn: (n, 6) x1, y1, x2, y2 in pixels of the image, score, class.
        path: image file, whose name without suffix is the image id.
        class_map: category id of each class.
        pred_masks: (H, W, n), 0 or 1, at the size of the image; adds run-length encoded masks.
    """
    items = predictions_to_coco(predn, path)
    rles: Sequence[Any] = []
    if pred_masks is not None:
        rles = ObjectMasks.from_dense(np.ascontiguousarray(np.moveaxis(np.asarray(pred_masks), 2, 0)) > 0).rles()
    for number, item in enumerate(items):
        masks = {"segmentation": rles[number]} if pred_masks is not None else {}
        jdict.append(item | {"category_id": class_map[item["category_id"]]} | masks)
