"""Object detection: the boxes of YOLOv5's Detect head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor, nn

from models.graph import load_model_yaml
from models.yolo import BaseModel, Detect, DetectionModel
from utils import plots
from utils.config.base import format_flags
from utils.config.detect import DetectConfig
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.detection import DetectionDataset
from utils.datasets.image_weights import class_weights, image_weights
from utils.datasets.index.data_yaml import DataSpec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import load_index
from utils.datasets.index.tiles import tile_index
from utils.losses.detection import DetectionLoss, scale_gains
from utils.losses.result import LossResult, Reduce, keep_local
from utils.metrics.agreement import Agreement, Comparison, compare_detections
from utils.metrics.detection import DetectionEvaluator
from utils.metrics.prediction_files import BoxTextWriter, CocoJsonWriter
from utils.ops.autoanchor import check_anchors, compute_box_sizes
from utils.ops.boxes import scale_boxes
from utils.ops.nms import non_max_suppression
from utils.ops.prototypes import get_prototypes, split_masks
from utils.plots.labels import plot_labels
from utils.tasks.base import Postprocess, PredictionFiles, Sink, Task
from utils.tasks.options import NO_OVERRIDES, Overrides, PostprocessOptions, SpecificOptions, TaskOptions

if TYPE_CHECKING:
    from utils.backends.info import ModelInfo

AMP_TOLERANCE = 25.6  # pixels, a tenth of the probe's side; broken half precision is off by far more, or not finite
AMP_COMPARED = 100  # boxes of highest objectness
BOX_COLUMNS = 5  # x, y, w, h, objectness
NMS_COLUMNS = 6  # x1, y1, x2, y2, score, class


@dataclass(frozen=True)
class DetectionOptions(SpecificOptions):
    """As the flags of train.py."""

    autobalance: bool = False


class DetectionTask(Task):
    """Boxes with classes."""

    name = "detect"
    head: ClassVar[type[Detect]] = Detect  # last layer of the graph
    network: ClassVar[type[DetectionModel]] = DetectionModel
    graph_needs = "Detect as its last layer"
    example_cfg = "yolov5s.yaml"
    options_type = DetectionOptions
    coco_writer_class = CocoJsonWriter
    loss_names: ClassVar[tuple[str, ...]] = ("box_loss", "obj_loss", "cls_loss")
    main_metrics: ClassVar[tuple[tuple[str, str], ...]] = (("mAP50-95", "metrics/mAP_0.5:0.95"),)
    supports_nms = True
    has_boxes = supports_tiles = True

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        super().__init__(spec, hyp, options, channels=channels)
        self.class_names = {0: "item"} if options.data.single_cls and spec.num_classes != 1 else dict(spec.names)
        self._loss: nn.Module | None = None
        self._loss_state: Mapping[str, Any] = {}

    # -- data ------------------------------------------------------------------------------------------------------

    @staticmethod
    def load_index(spec: DataSpec, split: str) -> ImageIndex:
        return load_index(spec, split, require_labels=False)

    def get_index(self, split: str) -> ImageIndex:
        if split not in self._indexes:
            single_cls, verbose = self.options.data.single_cls, self.options.verbose
            index = load_index(self.spec, split, single_cls=single_cls, verbose=verbose)
            data = self.options.data
            if data.tile is not None:
                index = tile_index(
                    index,
                    data.tile or data.imgsz,
                    overlap=data.tile_overlap,
                    min_visible=data.tile_visible,
                    all_tiles=split != "train",
                )
            self._indexes[split] = index
        return self._indexes[split]

    def build_dataset(self, split: str, *, augment: bool, batch_size: int, rect: bool, pad: float) -> DetectionDataset:
        data = self.options.data
        return DetectionDataset(
            self.get_index(split),
            imgsz=data.imgsz,
            hyp=self.hyp,
            augment=augment,
            rect=rect,
            batch_size=batch_size,
            stride=data.stride,
            pad=pad,
            seed=data.seed,
            cache=data.train_cache if augment else data.val_cache,
            channels=self.channels,
            fixed_hw=data.fixed_hw,
            mosaic_epochs=data.mosaic_epochs,
            original_size=data.original_size and not augment,
        )

    def compute_image_weights(self, per_class: np.ndarray) -> np.ndarray:
        index, num_classes = self.get_index("train"), len(self.class_names)
        weights = class_weights(index, num_classes) * num_classes * (1 - per_class) ** 2 / num_classes
        return image_weights(index, weights)

    # -- network ---------------------------------------------------------------------------------------------------

    @classmethod
    def matches_graph(cls, layers: frozenset[str], source: str) -> bool:
        """Any graph that no other task recognizes."""
        return True

    @classmethod
    def build_network(cls, graph: Mapping[str, Any], ch: int = 3, overrides: Overrides = NO_OVERRIDES) -> BaseModel:
        return cls.network(graph, ch, overrides.nc, overrides.anchors)

    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        graph = load_model_yaml(cfg)
        anchors = None if self.hyp.anchors is None else round(self.hyp.anchors)
        model = self.build_network(graph, self.channels, Overrides(len(self.class_names), anchors))
        if type(model.head) is not self.head:
            raise InputError(
                f"the graph ends with {type(model.head).__name__}, task {self.name!r} needs {self.graph_needs}; "
                f"give a YAML or checkpoint of that kind, as in --cfg {self.example_cfg}"
            )
        model.names = dict(self.class_names)
        return model

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        index = self.get_index("train")
        if plots:
            self._plot_labels(index, save_dir)
        if anchors:
            boxes_wh = compute_box_sizes(index.sizes_hw, index.offsets, index.boxes_xywhn, self.options.data.imgsz)
            rng = np.random.default_rng(self.options.data.seed)
            check_anchors(model.head, boxes_wh, threshold=self.hyp.anchor_t, rng=rng)

    def bind(self, model: BaseModel) -> None:
        """Build the loss for `model`'s anchors and strides; they are copied."""
        self._loss = self.build_loss(model)
        if self._loss_state:
            self._loss.load_state_dict(self._loss_state)

    def set_loss(self, loss: nn.Module) -> None:
        """Use a loss of a script, called with raw outputs and targets as that of `build_loss`."""
        self._loss = loss

    def build_loss(self, model: BaseModel) -> nn.Module:
        """The loss for a network."""
        return self.build_detection_loss(model)

    def build_detection_loss(self, model: BaseModel) -> DetectionLoss:
        """The loss of boxes, objectness and classes."""
        num_classes = len(self.class_names)
        return DetectionLoss(
            anchors=model.head.anchors.detach().clone(),
            strides=model.stride.tolist(),
            num_classes=num_classes,
            hyp=scale_gains(self.hyp, model.head.nl, num_classes, self.options.data.imgsz),
            autobalance=self.specific.autobalance,
        )

    # -- step ------------------------------------------------------------------------------------------------------

    def losses(self, preds: Any, batch: Batch, *, reduce: Reduce = keep_local) -> LossResult | None:
        """Box, objectness and class loss of raw feature maps; None for boxes without them (ensembles, exports)."""
        raw = (preds[1] if len(preds) > 1 else None) if isinstance(preds, tuple) else preds
        if raw is None or self._loss is None:
            return None
        result: LossResult = self._loss(raw, batch.targets, reduce=reduce)
        return result

    @classmethod
    def outputs_agree(cls, exact: Any, mixed: Any) -> bool:
        """Whether the boxes of highest objectness in `exact` are nearly the same in `mixed`."""
        rows, others = exact[0][0].float(), mixed[0][0].float()  # (N, 5+) x, y, w, h in pixels, objectness
        best = rows[:, 4].topk(min(AMP_COMPARED, len(rows))).indices
        difference = (rows[best, :4] - others[best, :4]).abs().max()
        return bool(difference.isfinite() and difference < AMP_TOLERANCE)

    @classmethod
    def build_postprocess(cls, options: PostprocessOptions) -> Postprocess:
        return DetectionPostprocess(options)

    def state_dict(self) -> dict[str, Any]:
        """State of the loss that an exact resume needs."""
        return {} if self._loss is None else {"loss": self._loss.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`, now or when the loss is built."""
        self._loss_state = state.get("loss", {})
        if self._loss is not None and self._loss_state:
            self._loss.load_state_dict(self._loss_state)

    # -- metrics and plots -----------------------------------------------------------------------------------------

    def build_evaluator(self) -> DetectionEvaluator:
        return DetectionEvaluator(self.class_names, per_class=self.options.verbose)

    def build_sinks(self, files: PredictionFiles, split: str) -> list[Sink]:
        """Writers of text files and COCO JSON."""
        sinks: list[Sink] = []
        if files.text:
            hybrid_iou = self.options.postprocess.iou_thres if files.hybrid else None
            sinks.append(
                self.build_text_writer(files.folder / "labels", split, with_score=files.scores, iou=hybrid_iou)
            )
        if files.json is not None:
            sinks.append(self.coco_writer_class(self.get_index(split), files.json, coco_ids=files.coco_ids))
        return sinks

    def build_text_writer(self, folder: Path, split: str, *, with_score: bool, iou: float | None) -> BoxTextWriter:
        """The writer of text files; `iou` as `BoxTextWriter.hybrid_iou`."""
        return BoxTextWriter(folder, with_score=with_score, hybrid_iou=iou)

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        boxes = batch.targets if predictions is None else [p.boxes for p in predictions]
        plots.plot_batch(batch.images, boxes, batch.paths, self.class_names, file)

    def _plot_labels(self, index: ImageIndex, save_dir: Path) -> None:
        plot_labels(index.classes, index.boxes_xywhn, self.class_names, save_dir)

    # -- prediction and exported files -----------------------------------------------------------------------------

    @classmethod
    def check_predict_settings(cls, config: DetectConfig, *, num_classes: int, nms_in_file: bool) -> None:
        """As `Task.check_predict_settings`: classes that the model lacks, thresholds of files that hold NMS."""
        if wrong := [c for c in config.classes or () if not 0 <= c < num_classes]:
            raise InputError(f"--classes {wrong[0]}: the model has {num_classes} classes, 0 to {num_classes - 1}")
        ignored = config.explicit & {"conf_thres", "iou_thres", "agnostic_nms", "max_det"}
        if nms_in_file and ignored:
            LOGGER.warning(
                f"WARNING: {format_flags(ignored)}: the file holds NMS with the settings of its export; "
                "only a higher --conf-thres and a lower --max-det change the result"
            )

    @classmethod
    def matches_outputs(cls, info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
        """Decoded rows, or rows after NMS; also a segmenter's, whose files of the original do not name their task."""
        rows = outputs[0]
        if rows.ndim != 3:
            return False
        if info.nms:
            return rows.shape[2] == NMS_COLUMNS
        extra = rows.shape[2] - BOX_COLUMNS - len(info.names)
        return extra > 0 if not info.names or has_prototypes(outputs) else extra == 0

    @classmethod
    def compare_outputs(cls, reference: Sequence[Tensor], outputs: Any, settings: Comparison) -> Agreement:
        """As `Task.compare_outputs`: detections, and their masks if there are any."""
        with_masks = has_prototypes(reference)
        detections = [
            non_max_suppression(side, **settings.nms, nm=reference[1].shape[1] if with_masks else 0)
            for side in (reference, outputs)
        ]
        agreement = Agreement()
        for image, pair in enumerate(zip(*detections, strict=True)):
            rows, other_rows = pair
            masks = None
            if with_masks:
                own_masks, other_masks = (
                    split_masks(part, side[1][image], settings.size_hw)[1].to_prototype_size()
                    for part, side in zip(pair, (reference, outputs), strict=True)
                )
                masks = (own_masks, other_masks)
            agreement += compare_detections(
                rows, other_rows, settings.tolerance, conf_thres=settings.nms["conf_thres"], masks=masks
            )
        return agreement

    @classmethod
    def count_classes(cls, outputs: Sequence[Tensor]) -> int | None:
        """Columns of decoded rows behind the box that are no mask coefficients."""
        coefficients = outputs[1].shape[1] if has_prototypes(outputs) else 0
        return int(outputs[0].shape[2]) - BOX_COLUMNS - coefficients


def has_prototypes(outputs: Sequence[Tensor]) -> bool:
    """Whether mask prototypes (B, nm, h, w) follow the rows of an exported file."""
    return len(outputs) > 1 and outputs[1].ndim == 4


class DetectionPostprocess:
    """Boxes after non-maximum suppression, with masks if the network gives prototypes."""

    def __init__(self, options: PostprocessOptions) -> None:
        self.options = options

    def __call__(self, preds: Any, batch: Batch) -> list[Prediction]:
        """One prediction per image, on the CPU.

        Args:
            preds: decoded output of a detection or segmentation head, or `NMSOutput`.
        """
        options, prototypes = self.options, get_prototypes(preds)
        detections = non_max_suppression(
            preds,
            options.conf_thres,
            options.iou_thres,
            classes=options.classes,
            agnostic=options.agnostic or options.single_cls,
            multi_label=options.multi_label,
            max_det=options.max_det,
            nm=0 if prototypes is None else prototypes.shape[1],
        )
        if options.single_cls:
            for rows in detections:
                rows[:, 5] = 0
        input_hw = (batch.images.shape[2], batch.images.shape[3])
        predictions = []
        for number, rows in enumerate(detections):
            masks = None
            if prototypes is not None:
                rows, masks = split_masks(rows, prototypes[number], input_hw)
            prediction = Prediction(boxes=rows.cpu(), masks=masks)
            if options.original:
                prediction = self._to_original(prediction, batch.letterboxes[number], input_hw)
            predictions.append(prediction)
        return predictions

    def _to_original(self, prediction: Prediction, fit: Letterbox | None, input_hw: tuple[int, int]) -> Prediction:
        """The prediction in pixels of the original image; boxes by nominal ratio and padding, as in YOLOv5."""
        assert fit is not None and prediction.boxes is not None, "images to predict are letterboxed one by one"
        masks, bitmaps = prediction.masks, None
        if masks is not None:
            bitmaps = masks.to_original(fit) if self.options.retina_masks else masks.to_input().to_original(fit)
        boxes = scale_boxes(prediction.boxes, input_hw, fit.original_hw)
        if self.options.round_boxes:
            boxes[:, :4] = boxes[:, :4].round()
        return Prediction(boxes=boxes, bitmaps=bitmaps)
