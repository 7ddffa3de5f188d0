"""Classification of whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import transfer_weights
from models.classifiers import (
    TORCHVISION_KEY,
    TORCHVISION_STRIDE,
    build_classifier,
    load_classifier_graph,
    load_torchvision_weights,
)
from models.yolo import BaseModel
from utils import plots
from utils.config.classify import (
    CROP_AREA,
    JITTER,
    ClassifyPredictConfig,
    ClassifyTrainConfig,
    ClassifyValConfig,
)
from utils.config.hyp import Hyperparameters
from utils.config.train import TrainConfig
from utils.core.logging import LOGGER
from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.classification import ClassificationDataset, crop_center
from utils.datasets.image_weights import class_weights, image_weights
from utils.datasets.index.class_folders import load_class_data, load_class_index
from utils.datasets.index.data_yaml import DataSpec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.semantic_classes import SemanticClasses
from utils.losses.classification import classification_loss, compute_class_weights
from utils.losses.result import LossResult, Reduce, keep_local
from utils.metrics.agreement import Agreement, Comparison
from utils.metrics.classification import ClassificationEvaluator
from utils.ops.network_input import IMAGENET
from utils.tasks.base import Postprocess, Task
from utils.tasks.options import NO_OVERRIDES, Overrides, PostprocessOptions, SpecificOptions, TaskOptions
from utils.tasks.results import ClassResult, make_top1_box

if TYPE_CHECKING:
    from utils.backends.info import ModelInfo

AMP_TOLERANCE = 0.1  # of a probability


@dataclass(frozen=True)
class ClassificationOptions(SpecificOptions):
    """As the flags of classify/train.py.

    Attributes:
        uses_torchvision_weights: start a torchvision network from the weights published for it.
    """

    cutoff: int | None = None
    dropout: float | None = None
    crop_area: float = CROP_AREA
    jitter: float = JITTER
    class_weights: bool = False
    uses_torchvision_weights: bool = False


def fit_square(
    frame: np.ndarray, size_hw: tuple[int, int], /, *, auto: bool = False, stride: int = 32
) -> tuple[np.ndarray, Letterbox]:
    """`crop_center` as a `Fit`; the input has one size, so `auto` and `stride` change nothing."""
    return crop_center(frame, size_hw)


class ClassificationTask(Task):
    """One of several classes for each image; the data set is that of `load_class_data`."""

    name = "classify"
    train_config, val_config, predict_config = ClassifyTrainConfig, ClassifyValConfig, ClassifyPredictConfig
    options_type = ClassificationOptions
    genes = ("lr0", "lrf", "momentum", "weight_decay")
    loss_names = ("loss",)
    csv_width = 23
    lr_column, logs_all_lrs = "lr/", False
    train_plots = ("train_images.jpg",)
    val_plots = (("", "test_images.jpg"),)
    main_metrics = (("top-1", "metrics/accuracy_top1"),)
    pixels = IMAGENET
    fit = staticmethod(fit_square)
    square_input = True

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        super().__init__(spec, hyp, options, channels=channels)
        self.class_names = dict(spec.names)
        self._smoothing = 0.0
        self._class_weights: Tensor | None = None

    @classmethod
    def build_train_options(cls, config: TrainConfig, **resolved: Any) -> TaskOptions:
        assert isinstance(config, ClassifyTrainConfig)
        return replace(super().build_train_options(config, **resolved), verbose=config.verbose)

    # -- data ------------------------------------------------------------------------------------------------------

    @staticmethod
    def load_data(data: str | Path, *, prepare: bool = True) -> DataSpec:
        """As `load_class_data`."""
        return load_class_data(data, prepare=prepare)

    @staticmethod
    def load_index(spec: DataSpec, split: str) -> ImageIndex:
        return load_class_index(spec, split)

    def get_index(self, split: str) -> ImageIndex:
        if split not in self._indexes:
            self._indexes[split] = load_class_index(self.spec, split, verbose=self.options.verbose)
        return self._indexes[split]

    def build_dataset(
        self, split: str, *, augment: bool, batch_size: int, rect: bool, pad: float
    ) -> ClassificationDataset:
        """Random crops, or center crops without `augment`; all inputs are square."""
        data = self.options.data
        return ClassificationDataset(
            self.get_index(split),
            imgsz=data.imgsz,
            augment=augment,
            seed=data.seed,
            cache=data.train_cache if augment else data.val_cache,
            channels=self.channels,
            fixed_hw=data.fixed_hw,
            crop_area=self.specific.crop_area,
            jitter=self.specific.jitter,
        )

    def compute_image_weights(self, per_class: np.ndarray) -> np.ndarray:
        index = self.get_index("train")
        return image_weights(index, class_weights(index, len(self.class_names)) * (1 - per_class) ** 2)

    # -- network ---------------------------------------------------------------------------------------------------

    @staticmethod
    def load_graph(cfg: str | Path) -> dict[str, Any]:
        """As `load_classifier_graph`."""
        return load_classifier_graph(cfg)

    @classmethod
    def matches_graph(cls, layers: frozenset[str], source: str) -> bool:
        """No graph: classifiers are cut from those of detectors."""
        return False

    @classmethod
    def build_network(cls, graph: Mapping[str, Any], ch: int = 3, overrides: Overrides = NO_OVERRIDES) -> BaseModel:
        """As `build_classifier`, for the classes of ImageNet unless `overrides` has a number."""
        return build_classifier(graph, nc=1000 if overrides.nc is None else overrides.nc)

    @classmethod
    def get_stride(cls, graph: Mapping[str, Any]) -> int:
        return int(TORCHVISION_STRIDE) if TORCHVISION_KEY in graph else super().get_stride(graph)

    @classmethod
    def restore_network(cls, graph: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> BaseModel:
        """The number of classes, and the layer at which a detector is cut, follow from the weights."""
        if TORCHVISION_KEY in graph:
            return build_classifier(graph, nc=int(graph["nc"]))
        cutoff = 1 + max(int(key.split(".")[1]) for key in state_dict)
        return build_classifier(graph, nc=len(state_dict[f"model.{cutoff - 1}.linear.bias"]), cutoff=cutoff)

    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        model = build_classifier(cfg, nc=len(self.class_names), cutoff=self.specific.cutoff)
        model.names = dict(self.class_names)
        if self.specific.dropout is not None:
            set_dropout(model, self.specific.dropout)
        return model

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        """Load published weights into a torchvision network."""
        name = model.yaml.get(TORCHVISION_KEY)
        if name is not None and self.specific.uses_torchvision_weights:
            copied, total = transfer_weights(model, load_torchvision_weights(name))
            LOGGER.info(f"{name}: transferred {copied}/{total} items")
        elif name is not None:
            LOGGER.info(f"{name}: random weights; --pretrained starts from those that torchvision publishes")
        if self.options.verbose:
            model.info(verbose=True, img_size=self.options.data.imgsz)

    def bind(self, model: BaseModel) -> None:
        """Set smoothing and class weights of the training loss."""
        self._smoothing = self.hyp.label_smoothing
        if self.specific.class_weights:
            counts = np.bincount(self.get_index("train").classes, minlength=len(self.class_names))
            self._class_weights = compute_class_weights(counts).to(next(model.parameters()).device)

    # -- step ------------------------------------------------------------------------------------------------------

    def losses(self, preds: Any, batch: Batch, *, reduce: Reduce = keep_local) -> LossResult | None:
        """Cross-entropy of logits; plain until a network is bound."""
        assert batch.labels is not None
        loss = classification_loss(
            get_logits(preds),
            batch.labels,
            smoothing=self._smoothing,
            class_weights=self._class_weights,
            reduce=reduce,
        )
        return LossResult(loss, {"loss": loss.detach()})

    @classmethod
    def outputs_agree(cls, exact: Any, mixed: Any) -> bool:
        """Whether the probabilities are nearly the same."""
        difference = (compute_probabilities(exact) - compute_probabilities(mixed)).abs().max()
        return bool(difference.isfinite() and difference < AMP_TOLERANCE)

    @classmethod
    def build_postprocess(cls, options: PostprocessOptions) -> Postprocess:
        """Probabilities, on the CPU."""
        return postprocess_logits

    # -- metrics and plots -----------------------------------------------------------------------------------------

    def build_evaluator(self) -> ClassificationEvaluator:
        return ClassificationEvaluator(self.class_names, per_class=self.options.verbose)

    def build_results_row(
        self, losses: Mapping[str, float], metrics: Mapping[str, float], val_losses: Mapping[str, float]
    ) -> dict[str, float]:
        """As `Task.build_results_row`; the validation loss is named after its folder, val or test."""
        folder = self.spec.splits["val"].paths[0].name
        prefix = folder if folder in ("val", "test") else "val"
        row = {f"train/{name}": value for name, value in losses.items()}
        return row | {f"{prefix}/{name}": value for name, value in val_losses.items()} | dict(metrics)

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch with its classes, or with the predicted ones, in red if they are wrong."""
        assert batch.labels is not None
        labels = batch.labels.tolist()
        if predictions is None:
            plots.plot_captions(batch.images, [self.class_names[label] for label in labels], file)
            return
        best = [prediction.probs.max(dim=0) for prediction in predictions]  # type: ignore[union-attr]
        classes = [int(choice.indices) for choice in best]
        captions = [f"{self.class_names[c]} {float(b.values):.2f}" for c, b in zip(classes, best, strict=True)]
        wrong = [a != b for a, b in zip(classes, labels, strict=True)]
        plots.plot_captions(batch.images, captions, file, wrong=wrong)

    # -- prediction and exported files -----------------------------------------------------------------------------

    @classmethod
    def build_result(
        cls,
        item: SourceFrame,
        prediction: Prediction,
        names: Mapping[int, str],
        input_hw: tuple[int, int],
        ms: tuple[float, float, float],
        semantic: SemanticClasses | None = None,
    ) -> ClassResult:
        assert prediction.probs is not None
        return ClassResult.from_probs(item, prediction.probs.numpy(), names, input_hw, ms)

    @staticmethod
    def get_boxes(prediction: Prediction, size_hw: tuple[int, int]) -> Tensor:
        """(1, 6) a box around the image, with the most likely class."""
        assert prediction.probs is not None
        return torch.from_numpy(make_top1_box(prediction.probs.numpy(), size_hw))

    @classmethod
    def matches_outputs(cls, info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
        """Logits (B, num_classes)."""
        return outputs[0].ndim == 2

    @classmethod
    def compare_outputs(cls, reference: Sequence[Tensor], outputs: Any, settings: Comparison) -> Agreement:
        """As `Task.compare_outputs`: probabilities."""
        gaps = (reference[0].softmax(1) - outputs[0].softmax(1)).abs().amax(dim=1)
        return Agreement.count(gaps <= settings.tolerance.score)

    @classmethod
    def count_classes(cls, outputs: Sequence[Tensor]) -> int | None:
        """Columns of the logits."""
        return int(outputs[0].shape[1])


def postprocess_logits(preds: Any, batch: Batch) -> list[Prediction]:
    """The class probabilities of each image, on the CPU."""
    return [Prediction(probs=row) for row in compute_probabilities(preds).cpu()]


def get_logits(preds: Any) -> Tensor:
    """The logits (B, num_classes) in the output of a network or a runtime."""
    logits: Tensor = preds[0] if isinstance(preds, list | tuple) else preds
    return logits


def compute_probabilities(preds: Any) -> Tensor:
    """(B, num_classes) probabilities that sum to 1."""
    return torch.softmax(get_logits(preds).float(), dim=1)


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set the probability of every dropout layer."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
