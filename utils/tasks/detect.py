"""Object detection as a task: network, data, losses, post-processing and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from models.graph import load_model_yaml
from models.yolo import BaseModel, Detect, build_model, task_of
from utils import plots
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.types import Batch, Prediction
from utils.datasets.detection import DetectionDataset
from utils.datasets.image_weights import class_weights, image_weights
from utils.datasets.index.data_yaml import DataSpec, load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import load_index
from utils.datasets.loader import build_loader
from utils.datasets.masks import MaskForm
from utils.imaging.semantic_classes import SemanticClasses
from utils.losses.detection import DetectionLoss, LossResult, scaled_gains
from utils.metrics.detection import DetectionEvaluator
from utils.metrics.sinks import CocoSink, TextSink
from utils.ops.autoanchor import box_sizes, check_anchors
from utils.ops.nms import non_max_suppression
from utils.tasks.base import Outputs, Sink, StepLoader, Steps, TaskOptions, Traits, names_of_data, standard_row

VAL_PAD = 0.5  # strides of padding around validation images, as the published numbers were measured
AMP_TOLERANCE = 25.6  # pixels, a tenth of the probe's side; broken half precision is off by far more, or not finite
AMP_COMPARED = 100  # boxes of highest objectness


class DetectionTask:
    """Boxes of YOLOv5's Detect head.

    Args:
        spec: the data set.
        hyp: recipe numbers.
        options: settings of this run.
        channels: channels of the network input.
    """

    name = "detect"
    head: type[Detect] = Detect  # the layer that must end the graph
    example = "yolov5s.yaml"
    coco_sink = CocoSink
    traits = Traits()
    loss_names: tuple[str, ...] = ("box_loss", "obj_loss", "cls_loss")
    load_data = staticmethod(load_spec)
    names_in = staticmethod(names_of_data)
    list_images = staticmethod(partial(load_index, require_labels=False))
    load_graph = staticmethod(load_model_yaml)
    results_row = staticmethod(standard_row)
    semantic: SemanticClasses | None = None

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        self.spec, self.hyp, self.options, self.channels = spec, hyp, options, channels
        self.class_names = {0: "item"} if options.single_cls and spec.num_classes != 1 else dict(spec.names)
        self.stride = options.stride
        self._indexes: dict[str, ImageIndex] = {}
        self._loss: nn.Module | None = None
        self._pending_loss_state: Mapping[str, Any] = {}

    def index(self, split: str) -> ImageIndex:
        """The verified images and labels of a split, read once."""
        if split not in self._indexes:
            options = self.options
            self._indexes[split] = load_index(self.spec, split, single_cls=options.single_cls, verbose=options.verbose)
        return self._indexes[split]

    # -- network --------------------------------------------------------------------------------------------------

    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        """A fresh network for this data set's classes."""
        model = self.network(cfg)
        if type(model.head) is not self.head:
            raise InputError(
                f"the graph ends with {type(model.head).__name__}, but task {self.name!r} needs {self.head.__name__} "
                f"as its last layer; give a YAML or checkpoint of that kind, as in --cfg {self.example}"
            )
        if (task := task_of(model)) != self.name:
            raise InputError(f"the graph is one of task {task!r}; leave --task out, or give --cfg {self.example}")
        return model

    def network(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        """A fresh network of any kind for this data set's classes."""
        anchors = None if self.hyp.anchors is None else round(self.hyp.anchors)
        model = build_model(cfg, ch=self.channels, nc=len(self.class_names), anchors=anchors)
        model.names = dict(self.class_names)
        return model

    def bind(self, model: BaseModel) -> None:
        """Build the loss for `model`'s anchors and strides; they are arguments, not read later."""
        self.stride = max(int(model.stride.max()), 32)
        self._loss = self.build_loss(model)
        if self._pending_loss_state:
            self._loss.load_state_dict(self._pending_loss_state)

    def build_loss(self, model: BaseModel) -> nn.Module:
        """The loss for a network."""
        return self.detection_loss(model)

    def detection_loss(self, model: BaseModel) -> DetectionLoss:
        """The loss of boxes, objectness and classes."""
        num_classes = len(self.class_names)
        return DetectionLoss(
            anchors=model.head.anchors.detach().clone(),
            strides=model.stride.tolist(),
            num_classes=num_classes,
            hyp=scaled_gains(self.hyp, model.head.nl, num_classes, self.options.imgsz),
            autobalance=self.options.autobalance,
        )

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        """Draw the labels and fit the anchors to them, before the first epoch of a new run."""
        index = self.index("train")
        if plots:
            self._plot_labels(index, save_dir)
        if anchors:
            boxes_wh = box_sizes(index.sizes_hw, index.offsets, index.boxes_xywhn, self.options.imgsz)
            check_anchors(
                model.head, boxes_wh, threshold=self.hyp.anchor_t, rng=np.random.default_rng(self.options.seed)
            )

    # -- data -----------------------------------------------------------------------------------------------------

    def train_loader(self) -> StepLoader:
        """Augmented training batches."""
        options = self.options
        return self._loader(
            "train", augment=True, rect=options.rect, pad=0.0, batch_size=options.batch_size, shuffle=not options.rect
        )

    def eval_loader(self, split: str, **overrides: Any) -> StepLoader:
        """Batches of a split as they are; rectangular unless `rect=False` and `pad=0.0` are given."""
        settings = {"rect": True, "pad": VAL_PAD, "batch_size": self.options.batch_size} | overrides
        settings["rect"] = settings["rect"] and self.options.fixed_hw is None
        return self._loader(split, augment=False, shuffle=False, **settings)

    def _loader(
        self, split: str, *, augment: bool, rect: bool, pad: float, batch_size: int, shuffle: bool
    ) -> StepLoader:
        options = self.options
        cache = options.cache if augment or options.cache != "val" else "ram"
        dataset = DetectionDataset(
            self.index(split),
            imgsz=options.imgsz,
            hyp=self.hyp,
            augment=augment,
            rect=rect,
            batch_size=batch_size,
            stride=self.stride,
            pad=pad,
            seed=options.seed,
            cache=None if augment and cache == "val" else cache,
            channels=self.channels,
            fixed_hw=options.fixed_hw,
            mosaic_epochs=options.mosaic_epochs,
        )
        loader = build_loader(
            dataset,
            batch_size=batch_size,
            workers=options.workers,
            shuffle=shuffle,
            seed=options.seed,
            quad=options.quad and augment,
            pin_memory=options.pin_memory,
            masks=self.mask_form(augment=augment),
        )
        return Steps(loader)

    def mask_form(self, *, augment: bool) -> MaskForm | None:
        """What masks the batches carry, of training or validation: none."""
        return None

    def image_weights(self, per_class: np.ndarray) -> np.ndarray:
        """(images,) weights by which images are drawn: rare classes with low mAP count most."""
        index, num_classes = self.index("train"), len(self.class_names)
        weights = class_weights(index, num_classes) * num_classes * (1 - per_class) ** 2 / num_classes
        return image_weights(index, weights)

    # -- step -----------------------------------------------------------------------------------------------------

    def losses(self, preds: Any, batch: Batch) -> LossResult | None:
        """Box, objectness and class loss of raw maps; None for boxes that come without them (ensembles, exports)."""
        raw = (preds[1] if len(preds) > 1 else None) if isinstance(preds, tuple) else preds
        if raw is None or self._loss is None:
            return None
        result: LossResult = self._loss(raw, batch.targets)
        return result

    def outputs_agree(self, exact: Any, mixed: Any) -> bool:
        """Whether the boxes that score highest in `exact` are nearly the same in `mixed`, both from one image."""
        rows, others = exact[0][0].float(), mixed[0][0].float()  # (N, 5+) x, y, w, h in pixels, objectness
        best = rows[:, 4].topk(min(AMP_COMPARED, len(rows))).indices
        difference = (rows[best, :4] - others[best, :4]).abs().max()
        return bool(difference.isfinite() and difference < AMP_TOLERANCE)

    def postprocess(self, preds: Any, batch: Batch) -> list[Prediction]:
        """Boxes after non-maximum suppression, in pixels of the network input and on the CPU."""
        return [Prediction(boxes=rows.cpu()) for rows in self.detections(preds)]

    def detections(self, preds: Any, num_masks: int = 0) -> list[Tensor]:
        """(n, 6 + num_masks) x1, y1, x2, y2, score, class, mask coefficients of every image, on their device."""
        options = self.options
        decoded = preds[0] if isinstance(preds, list | tuple) else preds
        detections = non_max_suppression(
            decoded,
            options.conf_thres,
            options.iou_thres,
            multi_label=True,
            agnostic=options.single_cls,
            max_det=options.max_det,
            nm=num_masks,
        )
        if options.single_cls:
            for rows in detections:
                rows[:, 5] = 0
        return detections

    def build_evaluator(self) -> DetectionEvaluator:
        """Metrics over a split."""
        return DetectionEvaluator(self.class_names, per_class=self.options.verbose)

    def build_sinks(self, outputs: Outputs, split: str) -> list[Sink]:
        """Writers of text files and COCO JSON."""
        sinks: list[Sink] = []
        if outputs.text:
            hybrid_iou = self.options.iou_thres if outputs.hybrid else None
            sinks.append(self.text_sink(outputs.folder / "labels", split, with_score=outputs.scores, iou=hybrid_iou))
        if outputs.json is not None:
            sinks.append(self.coco_sink(self.index(split), outputs.json, coco_ids=outputs.coco_ids))
        return sinks

    def text_sink(self, folder: Path, split: str, *, with_score: bool, iou: float | None) -> TextSink:
        """The writer of text files; `iou` as `TextSink.hybrid_iou`."""
        return TextSink(folder, with_score=with_score, hybrid_iou=iou)

    # -- images and state ---------------------------------------------------------------------------------------

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch with its labels, or with predictions."""
        boxes = batch.targets if predictions is None else [p.boxes for p in predictions]
        plots.plot_batch(batch.images, boxes, batch.paths, self.class_names, file)

    def _plot_labels(self, index: ImageIndex, save_dir: Path) -> None:
        plots.plot_labels(index.classes, index.boxes_xywhn, self.class_names, save_dir)

    def state_dict(self) -> dict[str, Any]:
        """State of the loss that an exact resume needs."""
        return {} if self._loss is None else {"loss": self._loss.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._pending_loss_state = state.get("loss", {})
        if self._loss is not None and self._pending_loss_state:
            self._loss.load_state_dict(self._pending_loss_state)
