"""Precision, recall and mAP of boxes and of masks, and the confusion of an instance segmenter over a split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.core.types import Batch, Prediction
from utils.metrics.detection import DetectionEvaluator, Kind
from utils.ops.boxes import box_iou_matrix
from utils.ops.prototypes import mask_iou_matrix


class SegmentationEvaluator(DetectionEvaluator):
    """As `DetectionEvaluator`, with masks matched beside the boxes, at the resolution of the prototypes.

    A detection may stand for one label by its box and for another by its mask.
    """

    kinds = (Kind("(B)", "Box"), Kind("(M)", "Mask"))

    def overlaps(
        self, prediction: Prediction, batch: Batch, number: int, found: np.ndarray, known: np.ndarray
    ) -> Sequence[np.ndarray]:
        """(n, m) IoU of boxes and of masks.

        Masks end at their boxes, so that of detections only those are decoded whose box meets a label of their class.
        """
        boxes = box_iou_matrix(found[:, :4], known[:, 1:5])
        masks = np.zeros_like(boxes)
        meets = ((boxes > 0) & (found[:, 5:6] == known[None, :, 0])).any(axis=1)
        if meets.any():
            assert prediction.masks is not None
            shown = prediction.masks.select(meets).at_prototypes()
            wanted = label_masks(batch, number, shown.shape[1:]).to(shown.device)
            masks[meets] = mask_iou_matrix(shown, wanted).cpu().numpy()
        return boxes, masks


def label_masks(batch: Batch, number: int, size_hw: Sequence[int]) -> Tensor:
    """(m, h, w) bool masks of the labels of one image; `Batch.masks` must have one for each."""
    assert batch.masks is not None and batch.masks.dtype == torch.bool
    own = batch.masks[batch.targets[:, 0] == number]
    if own.shape[1:] == tuple(size_hw):
        return own
    return F.interpolate(own[:, None].float(), tuple(size_hw), mode="bilinear", align_corners=False)[:, 0] > 0.5
