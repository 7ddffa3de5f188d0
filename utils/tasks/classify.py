"""Classification of whole images as a task: network, data, loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import transfer_weights
from models.classifiers import KEY, build_classifier, load_classifier_graph, torchvision_weights
from models.yolo import BaseModel
from utils import plots
from utils.config.classify import ClassifyTrainConfig, ClassifyValConfig
from utils.config.hyp import Hyperparameters
from utils.core.logging import LOGGER
from utils.core.types import Batch, Prediction
from utils.datasets.classification import ClassificationDataset, fit_center
from utils.datasets.image_weights import class_weights, image_weights
from utils.datasets.index.class_folders import load_class_data, load_class_index
from utils.datasets.index.data_yaml import DataSpec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.loader import build_loader
from utils.imaging.semantic_classes import SemanticClasses
from utils.losses.classification import balanced_weights, classification_loss
from utils.losses.detection import LossResult
from utils.metrics.classification import ClassificationEvaluator
from utils.tasks.base import IMAGENET, Outputs, Sink, StepLoader, Steps, TaskOptions, Traits, names_of_data

AMP_TOLERANCE = 0.1  # of a probability


class ClassificationTask:
    """One of several classes for each image.

    Args:
        spec: the data set, see `load_class_data`.
        hyp: recipe numbers.
        options: settings of this run.
        channels: channels of the network input.
    """

    name = "classify"
    traits = Traits(
        train_config=ClassifyTrainConfig,
        val_config=ClassifyValConfig,
        csv_width=23,
        rate_name="lr/",
        all_rates=False,
        train_images=("train_images.jpg",),
        val_images=(("", "test_images.jpg"),),
        pixels=IMAGENET,
        fit=fit_center,
        qualities=(("top-1", "metrics/accuracy_top1"),),
        genes=("lr0", "lrf", "momentum", "weight_decay"),
    )
    loss_names = ("loss",)
    load_data = staticmethod(load_class_data)
    names_in = staticmethod(names_of_data)
    list_images = staticmethod(load_class_index)
    load_graph = staticmethod(load_classifier_graph)
    semantic: SemanticClasses | None = None

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        self.spec, self.hyp, self.options, self.channels = spec, hyp, options, channels
        self.class_names = dict(spec.names)
        self._indexes: dict[str, ImageIndex] = {}
        self._smoothing = 0.0
        self._class_weights: Tensor | None = None

    def index(self, split: str) -> ImageIndex:
        """The verified images of a split, read once."""
        if split not in self._indexes:
            self._indexes[split] = load_class_index(self.spec, split, verbose=self.options.verbose)
        return self._indexes[split]

    def results_row(
        self, losses: Mapping[str, float], metrics: Mapping[str, float], val_losses: Mapping[str, float]
    ) -> dict[str, float]:
        """An epoch's numbers by their columns; the measured loss is called after its folder, val or test."""
        folder = self.spec.splits["val"].places[0].name
        prefix = folder if folder in ("val", "test") else "val"
        row = {f"train/{name}": value for name, value in losses.items()}
        return row | {f"{prefix}/{name}": value for name, value in val_losses.items()} | dict(metrics)

    # -- network --------------------------------------------------------------------------------------------------

    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        """A fresh network for this data set's classes."""
        model = build_classifier(cfg, len(self.class_names), self.options.cutoff)
        model.names = dict(self.class_names)
        if self.options.dropout is not None:
            set_dropout(model, self.options.dropout)
        return model

    def bind(self, model: BaseModel) -> None:
        """Take the smoothing and the class weights of training into the loss."""
        self._smoothing = self.hyp.label_smoothing
        if self.options.class_weights:
            counts = np.bincount(self.index("train").classes, minlength=len(self.class_names))
            self._class_weights = balanced_weights(counts).to(next(model.parameters()).device)

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        """Take over published weights of a torchvision network, before the first epoch of a new run."""
        name = model.yaml.get(KEY)
        if name is not None and self.options.published_weights:
            taken, total = transfer_weights(model, torchvision_weights(name))
            LOGGER.info(f"{name}: {taken}/{total} items taken over")
        elif name is not None:
            LOGGER.info(f"{name}: random weights; --pretrained starts from those torchvision publishes")
        if self.options.verbose:
            model.info(verbose=True, img_size=self.options.imgsz)

    # -- data -----------------------------------------------------------------------------------------------------

    def train_loader(self) -> StepLoader:
        """Augmented training batches."""
        return self._loader("train", augment=True, batch_size=self.options.batch_size)

    def eval_loader(self, split: str, *, batch_size: int | None = None, **_: Any) -> StepLoader:
        """Centers of the images of a split; all inputs are square, whatever else is asked for."""
        return self._loader(split, augment=False, batch_size=batch_size or self.options.batch_size)

    def _loader(self, split: str, *, augment: bool, batch_size: int) -> StepLoader:
        options = self.options
        cache = options.cache if options.cache != "val" else (None if augment else "ram")
        dataset = ClassificationDataset(
            self.index(split),
            imgsz=options.imgsz,
            augment=augment,
            seed=options.seed,
            cache=cache,
            channels=self.channels,
            fixed_hw=options.fixed_hw,
            crop_area=options.crop_area,
            jitter=options.jitter,
        )
        settings = {"workers": options.workers, "seed": options.seed, "pin_memory": options.pin_memory}
        return Steps(build_loader(dataset, batch_size=batch_size, shuffle=augment, **settings))  # type: ignore[arg-type]

    def image_weights(self, per_class: np.ndarray) -> np.ndarray:
        """(images,) weights by which images are drawn: those of rare classes of low accuracy count most."""
        index = self.index("train")
        return image_weights(index, class_weights(index, len(self.class_names)) * (1 - per_class) ** 2)

    # -- step -----------------------------------------------------------------------------------------------------

    def losses(self, preds: Any, batch: Batch) -> LossResult | None:
        """Cross-entropy of logits, as in training once a network is bound, else plain."""
        assert batch.labels is not None
        loss = classification_loss(
            first_output(preds), batch.labels, smoothing=self._smoothing, class_weights=self._class_weights
        )
        return LossResult(loss, {"loss": loss.detach()})

    def outputs_agree(self, exact: Any, mixed: Any) -> bool:
        """Whether the probabilities of one image are nearly the same."""
        difference = (probabilities(exact) - probabilities(mixed)).abs().max()
        return bool(difference.isfinite() and difference < AMP_TOLERANCE)

    def postprocess(self, preds: Any, batch: Batch) -> list[Prediction]:
        """The probabilities of each image, on the CPU."""
        return [Prediction(probs=row) for row in probabilities(preds).cpu()]

    def build_evaluator(self) -> ClassificationEvaluator:
        """Metrics over a split."""
        return ClassificationEvaluator(self.class_names, per_class=self.options.verbose)

    def build_sinks(self, outputs: Outputs, split: str) -> list[Sink]:
        """None: a classifier's validation writes no files of predictions."""
        return []

    # -- images and state ---------------------------------------------------------------------------------------

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch with its classes, or with the classes predicted, in red where they are wrong."""
        assert batch.labels is not None
        labels = batch.labels.tolist()
        if predictions is None:
            plots.plot_captions(batch.images, [self.class_names[label] for label in labels], file)
            return
        best = [prediction.probs.max(dim=0) for prediction in predictions]  # type: ignore[union-attr]
        found = [int(choice.indices) for choice in best]
        captions = [f"{self.class_names[c]} {float(b.values):.2f}" for c, b in zip(found, best, strict=True)]
        wrong = [a != b for a, b in zip(found, labels, strict=True)]
        plots.plot_captions(batch.images, captions, file, wrong=wrong)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


def first_output(preds: Any) -> Tensor:
    """The logits (B, num_classes) of what a network or a runtime gives."""
    logits: Tensor = preds[0] if isinstance(preds, list | tuple) else preds
    return logits


def probabilities(preds: Any) -> Tensor:
    """(B, num_classes) probabilities that sum to 1."""
    return torch.softmax(first_output(preds).float(), dim=1)


def set_dropout(model: nn.Module, chance: float) -> None:
    """Give every dropout layer this chance."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = chance
