"""Matching and prediction files of one image, with the arguments of YOLOv5's segment/val.py."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.evaluate import script_metrics
from utils.evaluate.script_metrics import save_one_json, save_one_txt
from utils.ops.prototypes import mask_iou_matrix

__all__ = ["process_batch", "save_one_json", "save_one_txt"]


def process_batch(
    detections: Tensor,
    labels: Tensor,
    iouv: Tensor,
    pred_masks: Tensor | None = None,
    gt_masks: Tensor | None = None,
    overlap: bool = False,
    masks: bool = False,
) -> Tensor:
    """As `utils.evaluate.script_metrics.process_batch`, with `masks` by the IoU of masks.

    Args:
        pred_masks: (N, h, w), 0 or 1.
        gt_masks: (M, H, W), 0 or 1; with `overlap` one map (H, W) or (1, H, W) of the number of the label at each
            pixel, from 1. Resized to (h, w) by linear interpolation and thresholded at 0.5.
    """
    if not masks:
        return script_metrics.process_batch(detections, labels, iouv)
    if pred_masks is None or gt_masks is None:
        raise ValueError("masks=True needs pred_masks and gt_masks")
    if overlap:
        numbers = torch.arange(1, len(labels) + 1, device=gt_masks.device)
        gt_masks = gt_masks.reshape(1, *gt_masks.shape[-2:]) == numbers[:, None, None]
    if gt_masks.shape[1:] != pred_masks.shape[1:]:
        resized = F.interpolate(gt_masks[None].float(), pred_masks.shape[1:], mode="bilinear", align_corners=False)
        gt_masks = resized[0] > 0.5
    return script_metrics.match_ious(mask_iou_matrix(pred_masks > 0.5, gt_masks > 0.5), detections, labels, iouv)
