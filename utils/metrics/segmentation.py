"""Instance segmentation metrics: precision, recall and mAP of boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.core.types import Batch, Prediction
from utils.metrics.detection import DetectionEvaluator, MetricGroup
from utils.ops.boxes import box_iou_matrix
from utils.ops.masks import ObjectMasks
from utils.ops.prototypes import mask_iou_matrix


class SegmentationEvaluator(DetectionEvaluator):
    """`DetectionEvaluator` that also matches masks, at the resolution of the prototypes.

    Boxes and masks are matched independently.
    """

    groups = (MetricGroup("(B)", "Box"), MetricGroup("(M)", "Mask"))

    def compute_ious(
        self, prediction: Prediction, batch: Batch, number: int, detections: np.ndarray, labels: np.ndarray
    ) -> Sequence[np.ndarray]:
        """IoU (n, m) of boxes and of masks.

        Masks are inside their boxes, so only detections are decoded whose box overlaps a label of their class.
        """
        box_ious = box_iou_matrix(detections[:, :4], labels[:, 1:5])
        mask_ious = np.zeros_like(box_ious)
        has_overlap = ((box_ious > 0) & (detections[:, 5:6] == labels[None, :, 0])).any(axis=1)
        if has_overlap.any():
            assert prediction.masks is not None
            masks = prediction.masks.select(has_overlap)
            if isinstance(masks, ObjectMasks):  # joined from tiles
                assert batch.masks is not None
                height, width = batch.masks.shape[1:]
                pred_masks = torch.from_numpy(masks.resize((height, width)).dense())
            else:
                pred_masks = masks.to_prototype_size()
            label_masks = get_label_masks(batch, number, pred_masks.shape[1:]).to(pred_masks.device)
            mask_ious[has_overlap] = mask_iou_matrix(pred_masks, label_masks).cpu().numpy()
        return box_ious, mask_ious


def get_label_masks(batch: Batch, number: int, size_hw: Sequence[int]) -> Tensor:
    """Label masks (m, h, w) bool of one image; `Batch.masks` must have one mask per label."""
    assert batch.masks is not None and batch.masks.dtype == torch.bool
    masks = batch.masks[batch.targets[:, 0] == number]
    if masks.shape[1:] == tuple(size_hw):
        return masks
    return F.interpolate(masks[:, None].float(), tuple(size_hw), mode="bilinear", align_corners=False)[:, 0] > 0.5
