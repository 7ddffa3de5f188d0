"""Semantic segmentation as a task: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.graph import load_model_yaml
from models.yolo import BaseModel, build_model, task_of
from utils import plots
from utils.config.hyp import Hyperparameters
from utils.config.semantic import SemanticTrainConfig
from utils.core.errors import InputError
from utils.core.types import Batch, Prediction
from utils.datasets.index.data_yaml import DataSpec, load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.semantic_labels import load_semantic_index
from utils.datasets.loader import build_loader
from utils.datasets.semantic import SemanticAugmentation, SemanticDataset
from utils.losses.detection import LossResult
from utils.losses.semantic import SemanticLoss
from utils.metrics.semantic import SemanticEvaluator
from utils.ops.semantic_masks import blended, original_semantic_mask, without_padding
from utils.tasks.base import (
    JOINT_FLAGS,
    MASK_FLAGS,
    Outputs,
    Sink,
    StepLoader,
    Steps,
    TaskOptions,
    Traits,
    standard_row,
)

AMP_TOLERANCE = 0.1  # of a probability
WARMUP_ITERATIONS = 800  # at least: with a full rate from the start the loss of semantic masks may blow up
BOX_FLAGS = frozenset({"single_cls", "autobalance", "noautoanchor", "rect"})
VAL_BOX_FLAGS = frozenset(
    {"conf_thres", "iou_thres", "max_det", "single_cls", "save_txt", "save_hybrid", "save_conf", "save_json", "coco"}
)


def load_semantic_data(data: str | Path, *, prepare: bool = True) -> DataSpec:
    """As `load_spec`; InputError for a set without semantic masks."""
    spec = load_spec(data, prepare=prepare)
    if spec.semantic is None:
        raise InputError(
            f"{spec.path}: key 'semantic' is missing, which tells where the semantic masks are and what their values "
            "mean; see docs/semantic.md"
        )
    return spec


def names_of_classes(spec: DataSpec) -> Mapping[int, str]:
    """The names that pixels have."""
    return {} if spec.semantic is None else spec.semantic.classes.names


def refuse(options: TaskOptions) -> None:
    """InputError for options that cannot be had with semantic masks."""
    if options.quad:
        raise InputError("--quad joins images with boxes only, semantic masks have no such form; leave it out")


class SemanticTask:
    """Semantic masks of the semantic heads.

    Args:
        spec: the data set, with semantic masks.
        hyp: recipe numbers.
        options: settings of this run.
        channels: channels of the network input.
    """

    name = "semantic"
    traits = Traits(
        train_config=SemanticTrainConfig,
        csv_width=23,
        unused=MASK_FLAGS | JOINT_FLAGS | BOX_FLAGS,
        val_unused=VAL_BOX_FLAGS,
        hyp_defaults={"warmup_iterations": WARMUP_ITERATIONS},
        qualities=(("mIoU", "metrics/mIoU"),),
        floor_accumulation=True,
        genes=(
            *("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr"),
            *("flipud", "fliplr", "mosaic"),
        ),
    )
    loss_names: tuple[str, ...] = ("sem_loss",)
    load_data = staticmethod(load_semantic_data)
    names_in = staticmethod(names_of_classes)
    list_images = staticmethod(load_semantic_index)
    load_graph = staticmethod(load_model_yaml)
    results_row = staticmethod(standard_row)

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        refuse(options)
        assert spec.semantic is not None
        self.spec, self.hyp, self.options, self.channels = spec, hyp, options, channels
        self.semantic = spec.semantic.classes
        weights = options.class_weights
        if not isinstance(weights, bool) and len(weights) != len(self.semantic):
            raise InputError(
                f"--class-weights: {len(weights)} numbers for the {len(self.semantic)} semantic classes of "
                f"{spec.path}; give one each, or none to have them worked out"
            )
        self.class_names = dict(self.semantic.names)
        self.stride = options.stride
        self._indexes: dict[str, ImageIndex] = {}
        self._loss: SemanticLoss | None = None

    def index(self, split: str) -> ImageIndex:
        """The images of a split that have a good semantic mask, read once."""
        if split not in self._indexes:
            self._indexes[split] = load_semantic_index(self.spec, split, verbose=self.options.verbose)
        return self._indexes[split]

    @property
    def side(self) -> int:
        """Longer side of the images as they are measured, and around which training scales them, pixels."""
        return max(rounded_up(self.options.seg_imgsz or self.options.imgsz, self.stride), 2 * self.stride)

    # -- network --------------------------------------------------------------------------------------------------

    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        """A fresh network for this data set's classes."""
        model = build_model(self.graph(cfg), ch=self.channels)
        if (task := task_of(model)) != self.name:
            raise InputError(
                f"the graph is one of task {task!r}, task {self.name!r} needs a semantic head and no Detect; "
                "give a YAML or checkpoint of that kind, as in --cfg yolov5s-sem.yaml"
            )
        model.names, model.semantic = dict(self.class_names), self.semantic
        return model

    def graph(self, cfg: str | Mapping[str, Any]) -> dict[str, Any]:
        """A model YAML with this data set's number of semantic classes."""
        return {**load_model_yaml(cfg), "n_segcls": len(self.semantic)}

    def bind(self, model: BaseModel) -> None:
        """Build the loss, on the model's device."""
        self.stride = max(int(model.stride.max()), 32)
        options = self.options
        loss = SemanticLoss(
            options.seg_loss,
            class_weights=self.class_weights(),
            aux_weights=options.aux_weights,
            ignore=self.semantic.ignore,
        )
        self._loss = loss.to(next(model.parameters()).device)

    def class_weights(self) -> Sequence[float] | None:
        """A weight per class: as given, by the pixels of the training split, or none."""
        given = self.options.class_weights
        if given is False:
            return None
        if given is not True:
            return given
        pixels = self.index("train").pixels
        assert pixels is not None, "counted while the semantic masks were checked"
        return rarity_weights(pixels.sum(axis=0))

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        """Nothing: there are no anchors to fit."""

    # -- data -----------------------------------------------------------------------------------------------------

    def train_loader(self) -> StepLoader:
        """Augmented training batches."""
        return self._loader("train", augment=True, rect=False, batch_size=self.options.batch_size)

    def eval_loader(
        self, split: str, *, rect: bool = True, batch_size: int | None = None, pad: float = 0.0
    ) -> StepLoader:
        """Batches of a split with the images' own semantic masks; rectangular unless `rect=False` is given."""
        rect = rect and self.options.fixed_hw is None
        return self._loader(split, augment=False, rect=rect, pad=pad, batch_size=batch_size or self.options.batch_size)

    def _loader(self, split: str, *, augment: bool, rect: bool, batch_size: int, pad: float = 0.0) -> StepLoader:
        options, index = self.options, self.index(split)
        cache = options.cache if options.cache != "val" else (None if augment else "ram")
        dataset = SemanticDataset(
            index,
            imgsz=self.side,
            hyp=self.hyp,
            augment=augment,
            augmentation=self.augmentation(index),
            mosaic=options.seg_mosaic,
            mosaic_epochs=options.mosaic_epochs,
            rect=rect,
            batch_size=batch_size,
            stride=self.stride,
            pad=pad,
            seed=options.seed,
            cache=cache,
            channels=self.channels,
            fixed_hw=options.fixed_hw,
        )
        settings = {"workers": options.workers, "seed": options.seed, "pin_memory": options.pin_memory}
        return Steps(build_loader(dataset, batch_size=batch_size, shuffle=augment, **settings))  # type: ignore[arg-type]

    def augmentation(self, index: ImageIndex) -> SemanticAugmentation:
        """Sizes around `side`, crops of `imgsz` in the shape of the images, strengths of the hyp file."""
        numbers = {f.name: getattr(self.hyp, f"seg_{f.name}") for f in fields(SemanticAugmentation)[2:]}
        try:
            made = SemanticAugmentation.for_images(index.sizes_hw, self.options.imgsz, **numbers)
        except ValueError as error:
            raise InputError(f"hyp: seg_low, seg_high, seg_std: {error}") from error
        height, width = (rounded_up(side, self.stride) for side in made.crop_hw)
        return replace(made, base=self.side, crop_hw=(height, width))

    def image_weights(self, per_class: np.ndarray) -> np.ndarray:
        """InputError: every image has pixels of most classes."""
        raise InputError(f"--image-weights: plays no part in task {self.name!r}; --class-weights weighs the pixels")

    # -- step -----------------------------------------------------------------------------------------------------

    def losses(self, preds: Any, batch: Batch) -> LossResult | None:
        """Loss of the logits, with those of auxiliary heads in training; None where no network is bound."""
        if self._loss is None or batch.semantic_masks is None:
            return None
        outputs = [preds] if isinstance(preds, Tensor) else list(preds)
        maps, size_hw = batch.semantic_masks, outputs[0].shape[2:]
        if maps.shape[1:] != size_hw:  # --multi-scale
            maps = F.interpolate(maps[:, None], size_hw, mode="nearest-exact")[:, 0]
        result: LossResult = self._loss(outputs, maps)
        return result

    def outputs_agree(self, exact: Any, mixed: Any) -> bool:
        """Whether the classes' probabilities of one image are nearly the same."""
        difference = (exact.float().softmax(1) - mixed.float().softmax(1)).abs().max()
        return bool(difference.isfinite() and difference < AMP_TOLERANCE)

    def postprocess(self, preds: Any, batch: Batch) -> list[Prediction]:
        """The semantic mask of each image at the size of its label: the image's own, else that of the input."""
        logits: Tensor = preds if isinstance(preds, Tensor) else preds[0]
        if batch.original_maps is None:
            return [Prediction(semantic_mask=scores.argmax(0).to(torch.uint8)) for scores in logits]
        fits = [fit for fit in batch.letterboxes if fit is not None]
        return [
            Prediction(semantic_mask=original_semantic_mask(scores, fit))
            for scores, fit in zip(logits, fits, strict=True)
        ]

    def build_evaluator(self) -> SemanticEvaluator:
        """Metrics over a split."""
        return SemanticEvaluator(self.semantic, per_class=self.options.verbose)

    def build_sinks(self, outputs: Outputs, split: str) -> list[Sink]:
        """None: semantic masks are written by detect.py."""
        return []

    # -- images and state ---------------------------------------------------------------------------------------

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch under the colors of its labels, or of predictions."""
        nothing: list[None] = [None] * len(batch)
        plots.plot_batch(batch.images, nothing, batch.paths, {}, file, paint=self.painter(batch, predictions))

    def painter(self, batch: Batch, predictions: Sequence[Prediction] | None) -> plots.Painter:
        """What colors a drawn image of the batch in place."""

        def paint(cell: np.ndarray, number: int) -> None:
            shown = shown_map(batch, number, predictions, self.semantic.ignore)
            if shown is not None:
                resized = cv2.resize(shown, cell.shape[1::-1], interpolation=cv2.INTER_NEAREST)
                cell[:] = blended(cell, resized, self.semantic)

        return paint

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


def shown_map(batch: Batch, number: int, predictions: Sequence[Prediction] | None, ignore: int) -> np.ndarray | None:
    """(H, W) uint8 classes over the network input of image `number`, labelled or predicted; None without any."""
    if predictions is None:
        return None if batch.semantic_masks is None else batch.semantic_masks[number].cpu().numpy()
    found = predictions[number].semantic_mask
    if found is None:
        return None
    size_hw = batch.images.shape[2:]
    classes, fit = found.to(torch.uint8).cpu().numpy(), batch.letterboxes[number]
    if fit is None or classes.shape == tuple(size_hw):
        return classes
    canvas = torch.full(tuple(size_hw), ignore, dtype=torch.uint8)
    inner = without_padding(canvas, fit)
    inner.copy_(
        torch.from_numpy(cv2.resize(classes, (inner.shape[1], inner.shape[0]), interpolation=cv2.INTER_NEAREST))
    )
    return canvas.numpy()


def rounded_up(pixels: int, stride: int) -> int:
    """The next multiple of the stride."""
    return -(-pixels // stride) * stride


def rarity_weights(pixels: np.ndarray) -> list[float]:
    """A weight for each class, larger for rare ones: 1 / ln(1.02 + share of the pixels) (ENet, arXiv:1606.02147).

    Scaled so that their mean over the pixels is 1: how strong the loss is beside others does not change.
    """
    shares = pixels / max(pixels.sum(), 1)
    weights = 1 / np.log(1.02 + shares)
    weights /= (weights * shares).sum() or 1.0
    return [float(weight) for weight in weights]
