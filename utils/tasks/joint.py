"""Boxes and semantic masks of one network as a task: made of the tasks of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.graph import load_model_yaml
from models.yolo import BaseModel, JointOutput, task_of
from utils import plots
from utils.config.hyp import Hyperparameters
from utils.config.semantic import SemanticTrainConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Batch, Prediction
from utils.datasets.index.data_yaml import DataSpec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.semantic_labels import add_semantic_masks
from utils.losses.detection import LossResult
from utils.metrics.joint import JointEvaluator
from utils.tasks.base import (
    MASK_FLAGS,
    Outputs,
    Sink,
    StepLoader,
    Steps,
    TaskOptions,
    Traits,
    names_of_data,
    standard_row,
)
from utils.tasks.detect import DetectionTask
from utils.tasks.semantic import SemanticTask, load_semantic_data

SEMANTIC = "semantic"  # kind of the batches that are for semantic masks only


class JointTask:
    """A detector and a semantic head; arguments as `SemanticTask`.

    Attributes:
        boxes, maps: the tasks it is made of.
    """

    name = "joint"
    traits = Traits(
        train_config=SemanticTrainConfig,
        csv_width=23,
        unused=MASK_FLAGS,
        val_unused=frozenset(),
        hyp_defaults=SemanticTask.traits.hyp_defaults,
        qualities=(*DetectionTask.traits.qualities, *SemanticTask.traits.qualities),
        floor_accumulation=True,
    )
    loss_names = (*DetectionTask.loss_names, *SemanticTask.loss_names)
    load_data = staticmethod(load_semantic_data)
    names_in = staticmethod(names_of_data)
    list_images = staticmethod(DetectionTask.list_images)
    load_graph = staticmethod(load_model_yaml)
    results_row = staticmethod(standard_row)

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        self.maps = SemanticTask(spec, hyp, options, channels=channels)
        self.boxes = BoxPart(spec, hyp, options, self.maps, channels=channels)
        self.spec, self.hyp, self.channels, self.options = spec, hyp, channels, options
        self.class_names, self.semantic = self.boxes.class_names, self.maps.semantic

    @property
    def options(self) -> TaskOptions:
        """Settings of the run; those of the semantic masks differ in size and batch."""
        return self.boxes.options

    @options.setter
    def options(self, options: TaskOptions) -> None:
        self.boxes.options = options
        self.maps.options = replace(options, batch_size=options.seg_batch_size or options.batch_size)

    # -- network --------------------------------------------------------------------------------------------------

    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        """A fresh network for this data set's classes of boxes and of pixels."""
        model = self.boxes.network(self.maps.graph(cfg))
        if (task := task_of(model)) != self.name:
            raise InputError(
                f"the graph is one of task {task!r}, task {self.name!r} needs Detect and a semantic head; "
                "give a YAML or checkpoint of that kind, as in --cfg yolov5s-psp.yaml"
            )
        model.semantic = self.semantic
        return model

    def bind(self, model: BaseModel) -> None:
        """Build both losses."""
        self.boxes.bind(model)
        self.maps.bind(model)

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        """As for the detector."""
        self.boxes.prepare_training(model, save_dir, anchors=anchors, plots=plots)

    # -- data -----------------------------------------------------------------------------------------------------

    def train_loader(self) -> StepLoader:
        """One batch per step for both, or one for each, see `BoxPart.why_apart`."""
        loader = self.boxes.train_loader()
        reason = self.boxes.why_apart("train")
        if reason is None:
            LOGGER.info("Boxes and semantic masks are trained with the same batches")
            return loader
        LOGGER.info(f"Boxes and semantic masks are trained with batches of their own: {reason}")
        return Steps(OfKind(loader), OfKind(self.maps.train_loader(), SEMANTIC), balance=self.options.balance)

    def eval_loader(self, split: str, **overrides: Any) -> StepLoader:
        """All images for both where one size serves both; else those with boxes, then those with semantic masks."""
        loader = self.boxes.eval_loader(split, **overrides)
        if self.boxes.shares(split):
            return loader
        batch_size = self.maps.options.batch_size
        maps = self.maps.eval_loader(split, **{**overrides, "batch_size": batch_size})
        return Passes(OfKind(loader), OfKind(maps, SEMANTIC))

    def image_weights(self, per_class: np.ndarray) -> np.ndarray:
        """Of the images with boxes, as for the detector."""
        return self.boxes.image_weights(per_class)

    # -- step -----------------------------------------------------------------------------------------------------

    def losses(self, preds: Any, batch: Batch) -> LossResult | None:
        """The losses that the batch has labels for, each times its task's weight; the items are without it."""
        found = as_joint(preds)
        box_weight, map_weight = self.options.task_weights
        parts = []
        if batch.kind != SEMANTIC and (boxes := self.boxes.losses(found.detection, batch)) is not None:
            parts.append((box_weight * boxes.total, boxes.items))
        if (maps := self.maps.losses(found.semantic, batch)) is not None:
            parts.append((map_weight * maps.total, maps.items))
        if not parts:
            return None
        items = {name: value for _, own in parts for name, value in own.items()}
        return LossResult(torch.stack([total for total, _ in parts]).sum(), items)

    def outputs_agree(self, exact: Any, mixed: Any) -> bool:
        """Whether boxes and semantic masks of one image are nearly the same."""
        first, second = as_joint(exact), as_joint(mixed)
        boxes = self.boxes.outputs_agree(first.detection, second.detection)
        return boxes and self.maps.outputs_agree(first.semantic, second.semantic)

    def postprocess(self, preds: Any, batch: Batch) -> list[Prediction]:
        """Boxes and semantic masks, as far as the batch has labels to measure them by."""
        found = as_joint(preds)
        predictions = [Prediction() for _ in range(len(batch))]
        if batch.kind != SEMANTIC:
            predictions = self.boxes.postprocess(found.detection, batch)
        if batch.semantic_masks is not None:
            for prediction, own in zip(predictions, self.maps.postprocess(found.semantic, batch), strict=True):
                prediction.semantic_mask = own.semantic_mask
        return predictions

    def build_evaluator(self) -> JointEvaluator:
        """Metrics of both over a split."""
        return JointEvaluator(self.boxes.build_evaluator(), self.maps.build_evaluator(), weights=self.options.fitness)

    def build_sinks(self, outputs: Outputs, split: str) -> list[Sink]:
        """Those of the detector, which see the images with boxes."""
        return [BoxSink(sink) for sink in self.boxes.build_sinks(outputs, split)]

    # -- images and state ---------------------------------------------------------------------------------------

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch with its labels, or with predictions: semantic masks, and boxes above them."""
        boxes = batch.targets if predictions is None else [prediction.boxes for prediction in predictions]
        paint = self.maps.painter(batch, predictions)
        plots.plot_batch(batch.images, boxes, batch.paths, self.class_names, file, paint=paint)

    def state_dict(self) -> dict[str, Any]:
        """State of the detector's loss."""
        return self.boxes.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self.boxes.load_state_dict(state)


def as_joint(preds: Any) -> JointOutput:
    """What a network gives, or an exported one: the boxes, then the logits."""
    if isinstance(preds, JointOutput):
        return preds
    *boxes, logits = preds
    return JointOutput(boxes[0] if len(boxes) == 1 else tuple(boxes), logits)


class BoxPart(DetectionTask):
    """The detector's part of a joint task; arguments as `DetectionTask`.

    Args:
        maps: the other part.
    """

    def __init__(
        self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, maps: SemanticTask, *, channels: int = 3
    ) -> None:
        super().__init__(spec, hyp, options, channels=channels)
        self.maps = maps
        self._with_maps: dict[str, ImageIndex] = {}

    def index(self, split: str) -> ImageIndex:
        """As `DetectionTask.index`, with the semantic masks where the images come with them."""
        if split not in self._with_maps:
            index = super().index(split)
            self._with_maps[split] = add_semantic_masks(index, self.maps.index(split)) if self.shares(split) else index
        return self._with_maps[split]

    def shares(self, split: str) -> bool:
        """Whether the images of a split go in once for boxes and semantic masks."""
        return self.why_apart(split) is None

    def why_apart(self, split: str) -> str | None:
        """Why boxes and semantic masks of a split need batches of their own; None where one batch serves both.

        `--joint-batches own` asks for two batches in training; what is measured does not depend on it.

        Raises:
            InputError: `--joint-batches shared` cannot be had.
        """
        wanted = self.options.joint_batches if split == "train" else "auto"
        if wanted == "own":
            return "--joint-batches own"
        if wanted == "auto" and self.maps.side != self.options.imgsz:
            return f"of {self.options.imgsz} and {self.maps.side} px"
        reason = self._difference(split)
        if reason is not None and wanted == "shared":
            raise InputError(f"--joint-batches shared: {reason}; leave the flag out")
        return reason

    def _difference(self, split: str) -> str | None:
        """How the images with boxes differ from those with semantic masks; None where they are the same."""
        if self.spec.semantic_set is not None:
            return f"{self.spec.path} names a set for each"
        boxes, maps = set(super().index(split).paths), set(self.maps.index(split).paths)
        if boxes == maps:
            return None
        return (
            f"of the images of {self.spec.path}, {split}, {len(boxes - maps)} have no usable semantic mask and "
            f"{len(maps - boxes)} have one but cannot be used for boxes"
        )


@dataclass
class OfKind:
    """The batches of a loader that gives one a step, marked as being of one kind."""

    loader: StepLoader
    kind: str = ""

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        """As the loader's."""
        self.loader.set_epoch(epoch, image_weights, first)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return (replace(batch, kind=self.kind) for batches in self.loader for batch in batches)


class Passes:
    """A StepLoader that goes through several loaders one after the other."""

    def __init__(self, *loaders: OfKind) -> None:
        self.loaders = loaders

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        """Choose the epoch of all of them."""
        for loader in self.loaders:
            loader.set_epoch(epoch, image_weights)

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[list[Batch]]:
        return ([batch] for loader in self.loaders for batch in loader)


@dataclass
class BoxSink:
    """Keeps batches without boxes from a reader of predictions."""

    sink: Sink

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """As the reader's."""
        if batch.kind != SEMANTIC:
            self.sink.update(predictions, batch)

    def close(self) -> None:
        """As the reader's."""
        self.sink.close()
