"""Instance segmentation: the boxes and masks of YOLOv5's Segment head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.semantic_heads import SEMANTIC_HEADS
from models.yolo import BaseModel, Segment, SegmentationModel
from utils import plots
from utils.config.segment import SegmentPredictConfig, SegmentTrainConfig, SegmentValConfig
from utils.core.errors import InputError
from utils.core.types import Batch, Prediction
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.masks import MaskBuilder
from utils.losses.result import LossResult, Reduce, keep_local
from utils.losses.segmentation import SegmentationLoss, merge_masks
from utils.metrics.mask_files import MaskCocoJsonWriter, PolygonTextWriter
from utils.metrics.segmentation import SegmentationEvaluator
from utils.ops.masks import ObjectMasks
from utils.tasks.base import JOINT_FLAGS, SEMANTIC_FLAGS
from utils.tasks.detect import BOX_COLUMNS, DetectionOptions, DetectionTask, has_prototypes

if TYPE_CHECKING:
    from utils.backends.info import ModelInfo

PROTOTYPE_RATIO = 4  # pixels of the network input per pixel of the prototypes; masks are evaluated there


@dataclass(frozen=True)
class SegmentationOptions(DetectionOptions):
    """As the flags of segment/train.py."""

    mask_ratio: int = 4
    no_overlap: bool = False


class SegmentationTask(DetectionTask):
    """Boxes with classes and masks."""

    name = "segment"
    head = Segment
    network = SegmentationModel
    graph_needs = "Segment as its last layer"
    example_cfg = "yolov5s-seg.yaml"
    train_config, val_config, predict_config = SegmentTrainConfig, SegmentValConfig, SegmentPredictConfig
    unused_train_flags = SEMANTIC_FLAGS | JOINT_FLAGS
    options_type = SegmentationOptions
    coco_writer_class = MaskCocoJsonWriter
    csv_width = 23
    loss_names = ("box_loss", "seg_loss", "obj_loss", "cls_loss")
    main_metrics = (("box mAP50-95", "metrics/mAP_0.5:0.95(B)"), ("mask mAP50-95", "metrics/mAP_0.5:0.95(M)"))
    supports_nms = False

    @classmethod
    def matches_graph(cls, layers: frozenset[str], source: str) -> bool:
        """A Segment head; InputError if it comes with a semantic head."""
        if "Segment" in layers and layers & SEMANTIC_HEADS.keys():
            raise InputError(f"{source}: Segment beside a semantic head; use Detect, or leave one of the two rows out")
        return "Segment" in layers

    def get_index(self, split: str) -> ImageIndex:
        """As `Task.get_index`; InputError for a split whose objects have boxes only."""
        index = super().get_index(split)
        if index.polygons is None and index.num_objects:
            raise InputError(
                f"{self.spec.path}: {split}: the labels are boxes; segmentation needs polygons, "
                "`class x1 y1 x2 y2 x3 y3 ...`, or COCO JSON with segmentations"
            )
        return index

    def get_mask_builder(self, *, augment: bool) -> MaskBuilder:
        """Masks as the flags say in training; one per object, as labeled, in validation."""
        if not augment:
            return MaskBuilder(PROTOTYPE_RATIO)
        return MaskBuilder(self.specific.mask_ratio, overlap=not self.specific.no_overlap)

    def build_loss(self, model: BaseModel) -> nn.Module:
        """The loss of detection and that of the masks."""
        return SegmentationLoss(self.build_detection_loss(model))

    def losses(self, preds: Any, batch: Batch, *, reduce: Reduce = keep_local) -> LossResult | None:
        """Box, mask, objectness and class loss of raw feature maps; None for the output of an exported network."""
        maps, prototypes = (preds[2], preds[1]) if len(preds) > 2 else preds
        if isinstance(maps, Tensor) or self._loss is None:
            return None
        masks = batch.masks
        assert masks is not None
        if masks.dtype == torch.bool and not self.specific.no_overlap:  # of validation: in the form of training
            masks = merge_masks(masks, batch.targets, len(batch))
        result: LossResult = self._loss(maps, prototypes, batch.targets, masks, reduce=reduce)
        return result

    def build_evaluator(self) -> SegmentationEvaluator:
        """Metrics of boxes and masks over a split."""
        return SegmentationEvaluator(self.class_names, per_class=self.options.verbose)

    def build_text_writer(self, folder: Path, split: str, *, with_score: bool, iou: float | None) -> PolygonTextWriter:
        """The writer of polygons as text."""
        return PolygonTextWriter(folder, self.get_index(split), with_score=with_score, hybrid_iou=iou)

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch with its labels, or with predictions: masks, and boxes above them."""

        def get_masks(number: int) -> ObjectMasks:
            if predictions is None:
                return ObjectMasks.from_dense(select_label_masks(batch, number).numpy())
            boxes, masks = predictions[number].boxes, predictions[number].masks
            assert boxes is not None and masks is not None
            return masks.select(boxes[:, 4] >= plots.MIN_SCORE).to_input()

        boxes = batch.targets if predictions is None else [p.boxes for p in predictions]
        plots.plot_batch(batch.images, boxes, batch.paths, self.class_names, file, masks=get_masks)

    @classmethod
    def matches_outputs(cls, info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
        """Decoded rows with mask coefficients, and prototypes."""
        rows = outputs[0]
        return rows.ndim == 3 and has_prototypes(outputs) and rows.shape[2] > BOX_COLUMNS + len(info.names)


def select_label_masks(batch: Batch, number: int) -> Tensor:
    """(m, h, w) bool masks of the labels of image `number`, from either form of `Batch.masks`."""
    assert batch.masks is not None
    rows = batch.targets[:, 0] == number
    if batch.masks.dtype == torch.bool:
        return batch.masks[rows]
    return batch.masks[number] == torch.arange(1, int(rows.sum()) + 1)[:, None, None]
