"""Instance segmentation as a task: detection with masks beside the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.yolo import BaseModel, Segment
from utils import plots
from utils.config.segment import SegmentTrainConfig, SegmentValConfig
from utils.core.errors import InputError
from utils.core.types import Batch, Prediction
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.masks import MaskForm
from utils.losses.detection import LossResult
from utils.losses.segmentation import SegmentationLoss, overlapping_masks
from utils.metrics.mask_sinks import MaskCocoSink, PolygonSink
from utils.metrics.segmentation import SegmentationEvaluator
from utils.ops.masks import ObjectMasks
from utils.ops.prototypes import prototypes_of, split_masks
from utils.tasks.base import JOINT_FLAGS, SEMANTIC_FLAGS, Traits
from utils.tasks.detect import DetectionTask

PROTOTYPE_RATIO = 4  # pixels of the network input per pixel of the prototypes; masks are measured there


class SegmentationTask(DetectionTask):
    """Boxes and masks of YOLOv5's Segment head; arguments as `DetectionTask`."""

    name = "segment"
    head = Segment
    example = "yolov5s-seg.yaml"
    coco_sink = MaskCocoSink
    traits = Traits(
        train_config=SegmentTrainConfig,
        val_config=SegmentValConfig,
        csv_width=23,
        qualities=(("box mAP50-95", "metrics/mAP_0.5:0.95(B)"), ("mask mAP50-95", "metrics/mAP_0.5:0.95(M)")),
        unused=SEMANTIC_FLAGS | JOINT_FLAGS,
    )
    loss_names = ("box_loss", "seg_loss", "obj_loss", "cls_loss")

    def index(self, split: str) -> ImageIndex:
        """As `DetectionTask.index`; InputError for a split whose objects have boxes only."""
        index = super().index(split)
        if index.polygons is None and index.num_objects:
            raise InputError(
                f"{self.spec.path}: {split}: the labels are boxes; segmentation needs polygons, "
                "`class x1 y1 x2 y2 x3 y3 ...`, or COCO JSON with segmentations"
            )
        return index

    def mask_form(self, *, augment: bool) -> MaskForm:
        """Masks as the flags ask for while training; one for each object, as labelled, where it is measured."""
        if not augment:
            return MaskForm(PROTOTYPE_RATIO)
        return MaskForm(self.options.mask_ratio, overlap=not self.options.no_overlap)

    def build_loss(self, model: BaseModel) -> nn.Module:
        """The loss of detection and that of the masks."""
        return SegmentationLoss(self.detection_loss(model))

    def losses(self, preds: Any, batch: Batch) -> LossResult | None:
        """Box, mask, objectness and class loss of raw maps; None for the output of an exported network."""
        maps, prototypes = (preds[2], preds[1]) if len(preds) > 2 else preds
        if isinstance(maps, Tensor) or self._loss is None:
            return None
        masks = batch.masks
        assert masks is not None
        if masks.dtype == torch.bool and not self.options.no_overlap:  # of validation: in the form of training
            masks = overlapping_masks(masks, batch.targets, len(batch))
        result: LossResult = self._loss(maps, prototypes, batch.targets, masks)
        return result

    def postprocess(self, preds: Any, batch: Batch) -> list[Prediction]:
        """Boxes as in detection, and their masks."""
        prototypes = prototypes_of(preds)
        assert prototypes is not None, "a segmenter gives prototypes"
        input_hw = (batch.images.shape[2], batch.images.shape[3])
        found = self.detections(preds, prototypes.shape[1])
        split = (split_masks(rows, own, input_hw) for rows, own in zip(found, prototypes, strict=True))
        return [Prediction(boxes=boxes.cpu(), masks=masks) for boxes, masks in split]

    def build_evaluator(self) -> SegmentationEvaluator:
        """Metrics of boxes and masks over a split."""
        return SegmentationEvaluator(self.class_names, per_class=self.options.verbose)

    def text_sink(self, folder: Path, split: str, *, with_score: bool, iou: float | None) -> PolygonSink:
        """The writer of polygons as text."""
        return PolygonSink(folder, self.index(split), with_score=with_score, hybrid_iou=iou)

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch with its labels, or with predictions: masks, and boxes above them."""

        def masks_of(number: int) -> ObjectMasks:
            if predictions is None:
                return ObjectMasks.from_dense(shown_masks(batch, number).numpy())
            boxes, masks = predictions[number].boxes, predictions[number].masks
            assert boxes is not None and masks is not None
            return masks.select(boxes[:, 4] >= plots.MIN_SCORE).in_input()

        boxes = batch.targets if predictions is None else [p.boxes for p in predictions]
        plots.plot_batch(batch.images, boxes, batch.paths, self.class_names, file, masks=masks_of)


def shown_masks(batch: Batch, number: int) -> Tensor:
    """(m, h, w) bool masks of the labels of one image, from either form of `Batch.masks`."""
    assert batch.masks is not None
    own = batch.targets[:, 0] == number
    if batch.masks.dtype == torch.bool:
        return batch.masks[own]
    return batch.masks[number] == torch.arange(1, int(own.sum()) + 1)[:, None, None]
