"""Detection and semantic segmentation with one network, composed of the tasks of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from models.semantic_heads import SEMANTIC_HEADS
from models.yolo import BaseModel, JointModel, JointOutput
from utils import plots
from utils.config.hyp import Hyperparameters
from utils.config.semantic import SemanticTrainConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Batch, Prediction
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.data_yaml import DataSpec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.semantic_labels import add_semantic_masks
from utils.datasets.step_loader import ParallelLoader, SequentialLoader, StepLoader, TaggedLoader
from utils.losses.result import LossResult, Reduce, keep_local
from utils.metrics.agreement import Agreement, Comparison
from utils.metrics.joint import JointEvaluator
from utils.tasks.base import MASK_FLAGS, Postprocess, PredictionFiles, Sink, Task
from utils.tasks.detect import DetectionOptions, DetectionTask
from utils.tasks.options import NO_OVERRIDES, Overrides, PostprocessOptions, TaskOptions
from utils.tasks.semantic import SemanticOptions, SemanticTask

if TYPE_CHECKING:
    from utils.backends.info import ModelInfo

SEMANTIC = "semantic"  # kind of the batches that are for semantic masks only


@dataclass(frozen=True)
class JointOptions(SemanticOptions, DetectionOptions):
    """As the flags of train.py."""

    task_weights: Sequence[float] = (0.6, 0.35)
    seg_batch_size: int | None = None
    balance: str = "longest"
    joint_batches: str = "auto"
    fitness: Sequence[float] = (0.1, 0.2, 0.7)


class JointTask(Task):
    """Boxes and semantic masks; the data set has both.

    Attributes:
        boxes, masks: the tasks it is composed of.
    """

    name = "joint"
    graph_needs = "Detect and a semantic head"
    example_cfg = "yolov5s-psp.yaml"
    train_config = SemanticTrainConfig
    unused_train_flags = MASK_FLAGS
    unused_val_flags = frozenset()
    options_type = JointOptions
    hyp_defaults = SemanticTask.hyp_defaults
    loss_names = (*DetectionTask.loss_names, *SemanticTask.loss_names)
    csv_width = 23
    main_metrics = (*DetectionTask.main_metrics, *SemanticTask.main_metrics)
    floor_accumulation = True
    has_boxes = True
    supports_int8 = False
    in_original = False

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        super().__init__(spec, hyp, options, channels=channels)
        options = self.options = replace(options, specific=self.specific)
        self.masks = SemanticTask(spec, hyp, self._build_mask_options(options), channels=channels)
        self.boxes = BoxPart(spec, hyp, options, self.masks, channels=channels)
        self.class_names, self.semantic = self.boxes.class_names, self.masks.semantic

    @staticmethod
    def _build_mask_options(options: TaskOptions) -> TaskOptions:
        """Options of the semantic part, which may have a batch size of its own."""
        batch_size = options.specific.seg_batch_size or options.data.batch_size
        return replace(options, data=replace(options.data, batch_size=batch_size))

    def with_options(self, **changes: Any) -> Self:
        """As `Task.with_options`, for both parts."""
        twin = super().with_options(**changes)
        twin.boxes = self.boxes.with_options(**changes)
        options = self._build_mask_options(twin.options)
        twin.masks = self.masks.with_options(**{name: getattr(options, name) for name in {*changes, "data"}})
        return twin

    # -- data ------------------------------------------------------------------------------------------------------

    @staticmethod
    def load_data(data: str | Path, *, prepare: bool = True) -> DataSpec:
        """As `SemanticTask.load_data`."""
        return SemanticTask.load_data(data, prepare=prepare)

    @staticmethod
    def load_index(spec: DataSpec, split: str) -> ImageIndex:
        """As `DetectionTask.load_index`."""
        return DetectionTask.load_index(spec, split)

    def get_index(self, split: str) -> ImageIndex:
        """The images with boxes, with their semantic masks if one batch serves both."""
        return self.boxes.get_index(split)

    def build_train_loader(self) -> StepLoader:
        """One batch per step for both, or one for each, see `BoxPart.explain_separate_batches`."""
        loader = self.boxes.build_train_loader()
        reason = self.boxes.explain_separate_batches("train")
        if reason is None:
            LOGGER.info("Boxes and semantic masks are trained with the same batches")
            return loader
        LOGGER.info(f"Boxes and semantic masks are trained with separate batches: {reason}")
        mask_loader = TaggedLoader(self.masks.build_train_loader(), SEMANTIC)
        return ParallelLoader(TaggedLoader(loader), mask_loader, balance=self.specific.balance)

    def build_eval_loader(
        self, split: str, *, batch_size: int | None = None, rect: bool = True, pad: float | None = None
    ) -> StepLoader:
        """All images for both if one size serves both; else those with boxes, then those with semantic masks."""
        loader = self.boxes.build_eval_loader(split, batch_size=batch_size, rect=rect, pad=pad)
        if self.boxes.shares_images(split):
            return loader
        mask_loader = self.masks.build_eval_loader(split, rect=rect, pad=pad)
        return SequentialLoader(TaggedLoader(loader), TaggedLoader(mask_loader, SEMANTIC))

    def build_dataset(self, split: str, **settings: Any) -> DetectionDataset:
        """That of the boxes."""
        return self.boxes.build_dataset(split, **settings)

    def compute_image_weights(self, per_class: np.ndarray) -> np.ndarray:
        """Of the images with boxes, as for the detector."""
        return self.boxes.compute_image_weights(per_class)

    # -- network ---------------------------------------------------------------------------------------------------

    @classmethod
    def matches_graph(cls, layers: frozenset[str], source: str) -> bool:
        """Detect and a semantic head."""
        return bool(layers & SEMANTIC_HEADS.keys()) and "Detect" in layers

    @classmethod
    def build_network(cls, graph: Mapping[str, Any], ch: int = 3, overrides: Overrides = NO_OVERRIDES) -> BaseModel:
        return JointModel(graph, ch, overrides.nc, overrides.anchors, overrides.n_segcls)

    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        graph = self.masks.override_graph(cfg)
        anchors = None if self.hyp.anchors is None else round(self.hyp.anchors)
        model = self.build_network(graph, self.channels, Overrides(len(self.class_names), anchors))
        model.names, model.semantic = dict(self.class_names), self.semantic
        return model

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        """As for the detector."""
        self.boxes.prepare_training(model, save_dir, anchors=anchors, plots=plots)

    def bind(self, model: BaseModel) -> None:
        """Build both losses."""
        self.boxes.bind(model)
        self.masks.bind(model)

    # -- step ------------------------------------------------------------------------------------------------------

    def losses(self, preds: Any, batch: Batch, *, reduce: Reduce = keep_local) -> LossResult | None:
        """The losses that the batch has labels for, each times its task's weight; the items are unweighted."""
        outputs = to_joint_output(preds)
        box_weight, mask_weight = self.specific.task_weights
        parts = []
        if batch.kind != SEMANTIC and (boxes := self.boxes.losses(outputs.detection, batch, reduce=reduce)) is not None:
            parts.append((box_weight * boxes.total, boxes.items))
        if (masks := self.masks.losses(outputs.semantic, batch, reduce=reduce)) is not None:
            parts.append((mask_weight * masks.total, masks.items))
        if not parts:
            return None
        items = {name: value for _, part in parts for name, value in part.items()}
        return LossResult(torch.stack([total for total, _ in parts]).sum(), items)

    @classmethod
    def outputs_agree(cls, exact: Any, mixed: Any) -> bool:
        """Whether boxes and semantic masks are nearly the same."""
        first, second = to_joint_output(exact), to_joint_output(mixed)
        boxes = DetectionTask.outputs_agree(first.detection, second.detection)
        return boxes and SemanticTask.outputs_agree(first.semantic, second.semantic)

    @classmethod
    def build_postprocess(cls, options: PostprocessOptions) -> Postprocess:
        return JointPostprocess(options)

    def state_dict(self) -> dict[str, Any]:
        """State of the detector's loss."""
        return self.boxes.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.boxes.load_state_dict(state)

    # -- metrics and plots -----------------------------------------------------------------------------------------

    def build_evaluator(self) -> JointEvaluator:
        """Metrics of both over a split."""
        return JointEvaluator(self.boxes.build_evaluator(), self.masks.build_evaluator(), weights=self.specific.fitness)

    def build_sinks(self, files: PredictionFiles, split: str) -> list[Sink]:
        """Those of the detector, which receive the batches with boxes."""
        return [BoxSink(sink) for sink in self.boxes.build_sinks(files, split)]

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch with its labels, or with predictions: semantic masks, and boxes above them."""
        boxes = batch.targets if predictions is None else [prediction.boxes for prediction in predictions]
        paint = self.masks.build_painter(batch, predictions)
        plots.plot_batch(batch.images, boxes, batch.paths, self.class_names, file, paint=paint)

    # -- prediction and exported files -----------------------------------------------------------------------------

    check_predict_settings = DetectionTask.check_predict_settings

    @staticmethod
    def get_raw_output(output: Any) -> JointOutput:
        """Decoded rows and logits."""
        return JointOutput(*(Task.get_raw_output(part) for part in output))

    @classmethod
    def matches_outputs(cls, info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
        """Decoded rows and logits (B, n, H, W)."""
        return len(outputs) == 2 and DetectionTask.matches_outputs(info, outputs[:1]) and outputs[1].ndim == 4

    @classmethod
    def compare_outputs(cls, reference: Sequence[Tensor], outputs: Any, settings: Comparison) -> Agreement:
        """As `Task.compare_outputs`: detections and semantic masks."""
        boxes = DetectionTask.compare_outputs(reference[:1], outputs[:1], settings)
        return boxes + SemanticTask.compare_outputs(reference[1:], outputs[1:], settings)

    default_semantic_classes = SemanticTask.default_semantic_classes


def to_joint_output(preds: Any) -> JointOutput:
    """The output of a network, or of an exported file: boxes, then logits."""
    if isinstance(preds, JointOutput):
        return preds
    *boxes, logits = preds
    return JointOutput(boxes[0] if len(boxes) == 1 else tuple(boxes), logits)


class JointPostprocess:
    """Boxes and semantic masks, each if the batch has labels of that kind or original images are predicted."""

    def __init__(self, options: PostprocessOptions) -> None:
        self.options = options
        self.boxes = DetectionTask.build_postprocess(options)
        self.masks = SemanticTask.build_postprocess(options)

    def __call__(self, preds: Any, batch: Batch) -> list[Prediction]:
        """One prediction per image.

        Args:
            preds: `JointOutput`, or the sequence of an exported file: decoded rows, logits.
        """
        outputs = to_joint_output(preds)
        predictions = [Prediction() for _ in range(len(batch))]
        if batch.kind != SEMANTIC:
            predictions = self.boxes(outputs.detection, batch)
        if self.options.original or batch.semantic_masks is not None:
            for prediction, part in zip(predictions, self.masks(outputs.semantic, batch), strict=True):
                prediction.semantic_mask = part.semantic_mask
        return predictions


class BoxPart(DetectionTask):
    """The detector of a joint task.

    Args:
        masks: the other part.
    """

    def __init__(
        self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, masks: SemanticTask, *, channels: int = 3
    ) -> None:
        super().__init__(spec, hyp, options, channels=channels)
        self.masks = masks
        self._combined: dict[str, ImageIndex] = {}

    def get_index(self, split: str) -> ImageIndex:
        """As `DetectionTask.get_index`, with the semantic masks if one batch serves both."""
        if split not in self._combined:
            index = super().get_index(split)
            shared = self.shares_images(split)
            self._combined[split] = add_semantic_masks(index, self.masks.get_index(split)) if shared else index
        return self._combined[split]

    def shares_images(self, split: str) -> bool:
        """Whether one batch serves boxes and semantic masks of a split."""
        return self.explain_separate_batches(split) is None

    def explain_separate_batches(self, split: str) -> str | None:
        """Why boxes and semantic masks of a split need separate batches; None if one batch serves both.

        `--joint-batches own` asks for separate batches in training; evaluation does not depend on it.

        Raises:
            InputError: `--joint-batches shared` is impossible.
        """
        mode, imgsz = self.specific.joint_batches if split == "train" else "auto", self.options.data.imgsz
        if mode == "own":
            return "--joint-batches own"
        if mode == "auto" and self.masks.imgsz != imgsz:
            return f"of {imgsz} and {self.masks.imgsz} px"
        reason = self._describe_difference(split)
        if reason is not None and mode == "shared":
            raise InputError(f"--joint-batches shared: {reason}; leave the flag out")
        return reason

    def _describe_difference(self, split: str) -> str | None:
        """How the images with boxes differ from those with semantic masks; None if they are the same."""
        if self.spec.semantic_set is not None:
            return f"{self.spec.path} names a set for each"
        boxes, masks = set(super().get_index(split).paths), set(self.masks.get_index(split).paths)
        if boxes == masks:
            return None
        return (
            f"of the images of {self.spec.path}, {split}, {len(boxes - masks)} have no valid semantic mask and "
            f"{len(masks - boxes)} have one but no valid boxes"
        )


@dataclass
class BoxSink:
    """Keeps batches without boxes from a sink."""

    sink: Sink

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """As the sink's."""
        if batch.kind != SEMANTIC:
            self.sink.update(predictions, batch)

    def close(self) -> None:
        """As the sink's."""
        self.sink.close()
