"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.graph import load_model_yaml
from models.semantic_heads import SEMANTIC_HEADS
from models.yolo import BaseModel, SemanticModel
from utils import plots
from utils.config.hyp import Hyperparameters
from utils.config.semantic import SemanticTrainConfig
from utils.config.val import ValConfig
from utils.core.errors import InputError
from utils.core.types import Batch, Prediction
from utils.datasets.index.data_yaml import DataSpec, load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.semantic_labels import load_semantic_index
from utils.datasets.semantic import SemanticAugmentation, SemanticDataset
from utils.datasets.step_loader import StepLoader
from utils.imaging.semantic_classes import MAX_SEMANTIC_CLASSES, SemanticClasses
from utils.losses.result import LossResult, Reduce, keep_local
from utils.losses.semantic import SemanticLoss
from utils.metrics.agreement import Agreement, Comparison
from utils.metrics.semantic import SemanticEvaluator
from utils.ops.semantic_masks import blend_semantic_mask, crop_padding, decode_semantic_mask
from utils.tasks.base import JOINT_FLAGS, MASK_FLAGS, Postprocess, Task, round_up
from utils.tasks.options import NO_OVERRIDES, Overrides, PostprocessOptions, SpecificOptions, TaskOptions

if TYPE_CHECKING:
    from utils.backends.info import ModelInfo

AMP_TOLERANCE = 0.1  # of a probability
WARMUP_ITERATIONS = 800  # at least: with a full rate from the start the semantic loss may diverge
BOX_FLAGS = frozenset({"single_cls", "autobalance", "noautoanchor", "rect"})
VAL_BOX_FLAGS = frozenset(
    {"conf_thres", "iou_thres", "max_det", "single_cls", "save_txt", "save_hybrid", "save_conf", "save_json", "coco"}
)


@dataclass(frozen=True)
class SemanticOptions(SpecificOptions):
    """As the flags of train.py.

    Attributes:
        seg_imgsz: longer side at which semantic masks are evaluated; None for that of `imgsz`.
    """

    class_weights: bool | Sequence[float] = False
    seg_imgsz: int | None = None
    seg_mosaic: bool = False
    seg_loss: str = "ce"
    aux_weights: Sequence[float] = (0.15, 0.05)

    @classmethod
    def from_val_config(cls, config: ValConfig) -> Self:
        """As `SpecificOptions.from_val_config`."""
        return cls(seg_imgsz=config.seg_imgsz)


class SemanticTask(Task):
    """Semantic masks of the semantic heads; the data set has masks."""

    name = "semantic"
    graph_needs = "a semantic head and no Detect"
    example_cfg = "yolov5s-sem.yaml"
    train_config = SemanticTrainConfig
    unused_train_flags = MASK_FLAGS | JOINT_FLAGS | BOX_FLAGS
    unused_val_flags = VAL_BOX_FLAGS
    unused_predict_flags = frozenset({"classes", "save_txt", "save_csv", "save_crop", "agnostic_nms"})
    options_type = SemanticOptions
    hyp_defaults = {"warmup_iterations": WARMUP_ITERATIONS}  # noqa: RUF012
    genes = (
        *("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr"),
        *("flipud", "fliplr", "mosaic"),
    )
    loss_names = ("sem_loss",)
    csv_width = 23
    val_pad = 0.0
    main_metrics = (("mIoU", "metrics/mIoU"),)
    floor_accumulation = True
    supports_int8 = False
    in_original = False

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        super().__init__(spec, hyp, options, channels=channels)
        if options.data.quad:
            raise InputError("--quad joins images with boxes only, not semantic masks; leave it out")
        assert spec.semantic is not None
        self.semantic: SemanticClasses = spec.semantic.classes
        weights = self.specific.class_weights
        if not isinstance(weights, bool) and len(weights) != len(self.semantic):
            raise InputError(
                f"--class-weights: {len(weights)} numbers for the {len(self.semantic)} semantic classes of "
                f"{spec.path}; give one each, or none to have them computed"
            )
        self.class_names = dict(self.semantic.names)
        self._loss: SemanticLoss | None = None

    # -- data ------------------------------------------------------------------------------------------------------

    @staticmethod
    def load_data(data: str | Path, *, prepare: bool = True) -> DataSpec:
        """As `Task.load_data`; InputError for a set without semantic masks."""
        spec = load_spec(data, prepare=prepare)
        if spec.semantic is None:
            raise InputError(
                f"{spec.path}: key 'semantic' is missing, which says where the semantic masks are and what their "
                "values mean; see docs/semantic.md"
            )
        return spec

    @staticmethod
    def get_class_names(spec: DataSpec) -> Mapping[int, str]:
        """Names of the semantic classes."""
        return {} if spec.semantic is None else spec.semantic.classes.names

    @staticmethod
    def load_index(spec: DataSpec, split: str) -> ImageIndex:
        return load_semantic_index(spec, split)

    def get_index(self, split: str) -> ImageIndex:
        """The images of a split that have a valid semantic mask, read once."""
        if split not in self._indexes:
            self._indexes[split] = load_semantic_index(self.spec, split, verbose=self.options.verbose)
        return self._indexes[split]

    @property
    def imgsz(self) -> int:
        """Longer side of the images in evaluation, and around which training scales them, pixels."""
        data = self.options.data
        return max(round_up(self.specific.seg_imgsz or data.imgsz, data.stride), 2 * data.stride)

    def build_train_loader(self) -> StepLoader:
        """As `Task.build_train_loader`; never rectangular."""
        return self._build_loader(
            "train", augment=True, shuffle=True, batch_size=self.options.data.batch_size, rect=False, pad=0.0
        )

    def build_dataset(self, split: str, *, augment: bool, batch_size: int, rect: bool, pad: float) -> SemanticDataset:
        data, index = self.options.data, self.get_index(split)
        return SemanticDataset(
            index,
            imgsz=self.imgsz,
            hyp=self.hyp,
            augment=augment,
            augmentation=self._build_augmentation(index),
            mosaic=self.specific.seg_mosaic,
            mosaic_epochs=data.mosaic_epochs,
            rect=rect,
            batch_size=batch_size,
            stride=data.stride,
            pad=pad,
            seed=data.seed,
            cache=data.train_cache if augment else data.val_cache,
            channels=self.channels,
            fixed_hw=data.fixed_hw,
        )

    def _build_augmentation(self, index: ImageIndex) -> SemanticAugmentation:
        """Sizes around `self.imgsz`, crops of the images' shape with `imgsz` as longer side, strengths of the hyp."""
        strengths = {f.name: getattr(self.hyp, f"seg_{f.name}") for f in fields(SemanticAugmentation)[2:]}
        data = self.options.data
        try:
            augmentation = SemanticAugmentation.from_images(index.sizes_hw, data.imgsz, **strengths)
        except ValueError as error:
            raise InputError(f"hyp: seg_low, seg_high, seg_std: {error}") from error
        height, width = (round_up(side, data.stride) for side in augmentation.crop_hw)
        return replace(augmentation, base=self.imgsz, crop_hw=(height, width))

    def compute_image_weights(self, per_class: np.ndarray) -> np.ndarray:
        """InputError: every image has pixels of most classes."""
        raise InputError(f"--image-weights: not for task {self.name!r}; use --class-weights, which weighs the pixels")

    # -- network ---------------------------------------------------------------------------------------------------

    @classmethod
    def matches_graph(cls, layers: frozenset[str], source: str) -> bool:
        """A semantic head without Detect."""
        return bool(layers & SEMANTIC_HEADS.keys()) and "Detect" not in layers

    @classmethod
    def build_network(cls, graph: Mapping[str, Any], ch: int = 3, overrides: Overrides = NO_OVERRIDES) -> BaseModel:
        """As `Task.build_network`; `nc` serves where `n_segcls` is not given."""
        return SemanticModel(graph, ch, overrides.nc if overrides.n_segcls is None else overrides.n_segcls)

    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        graph = self.override_graph(cfg)
        model = self.build_network(graph, self.channels)
        model.names, model.semantic = dict(self.class_names), self.semantic
        return model

    def override_graph(self, cfg: str | Mapping[str, Any]) -> dict[str, Any]:
        """A model YAML with this data set's number of semantic classes."""
        return {**load_model_yaml(cfg), "n_segcls": len(self.semantic)}

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        """Nothing: there are no anchors to fit."""

    def bind(self, model: BaseModel) -> None:
        """Build the loss, on the model's device."""
        loss = SemanticLoss(
            self.specific.seg_loss,
            class_weights=self.compute_class_weights(),
            aux_weights=self.specific.aux_weights,
            ignore=self.semantic.ignore,
        )
        self._loss = loss.to(next(model.parameters()).device)

    def compute_class_weights(self) -> Sequence[float] | None:
        """A weight per class: as the flag says, by the pixels of the training split, or none."""
        weights = self.specific.class_weights
        if weights is False:
            return None
        if weights is not True:
            return weights
        pixels = self.get_index("train").pixels
        assert pixels is not None, "counted while the semantic masks were verified"
        return compute_rarity_weights(pixels.sum(axis=0))

    # -- step ------------------------------------------------------------------------------------------------------

    def losses(self, preds: Any, batch: Batch, *, reduce: Reduce = keep_local) -> LossResult | None:
        """Loss of the logits, with those of auxiliary heads in training; None if no network is bound."""
        if self._loss is None or batch.semantic_masks is None:
            return None
        outputs = [preds] if isinstance(preds, Tensor) else list(preds)
        masks, size_hw = batch.semantic_masks, outputs[0].shape[2:]
        if masks.shape[1:] != size_hw:  # --multi-scale
            masks = F.interpolate(masks[:, None], size_hw, mode="nearest-exact")[:, 0]
        result: LossResult = self._loss(outputs, masks, reduce=reduce)
        return result

    @classmethod
    def outputs_agree(cls, exact: Any, mixed: Any) -> bool:
        """Whether the class probabilities are nearly the same."""
        difference = (exact.float().softmax(1) - mixed.float().softmax(1)).abs().max()
        return bool(difference.isfinite() and difference < AMP_TOLERANCE)

    @classmethod
    def build_postprocess(cls, options: PostprocessOptions) -> Postprocess:
        return SemanticPostprocess(options)

    # -- metrics and plots -----------------------------------------------------------------------------------------

    def build_evaluator(self) -> SemanticEvaluator:
        return SemanticEvaluator(self.semantic, per_class=self.options.verbose)

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """As `Task.plot_batch`, as colors over the images."""
        no_boxes: list[None] = [None] * len(batch)
        plots.plot_batch(batch.images, no_boxes, batch.paths, {}, file, paint=self.build_painter(batch, predictions))

    def build_painter(
        self, batch: Batch, predictions: Sequence[Prediction] | None
    ) -> Callable[[np.ndarray, int], None]:
        """A function that blends the semantic mask of image i into its plot, in place."""

        def paint(cell: np.ndarray, number: int) -> None:
            mask = get_plotted_mask(batch, number, predictions, self.semantic.ignore)
            if mask is not None:
                resized = cv2.resize(mask, cell.shape[1::-1], interpolation=cv2.INTER_NEAREST)
                cell[:] = blend_semantic_mask(cell, resized, self.semantic)

        return paint

    # -- exported files --------------------------------------------------------------------------------------------

    @classmethod
    def matches_outputs(cls, info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
        """Logits (B, n, H, W)."""
        return outputs[0].ndim == 4

    @classmethod
    def compare_outputs(cls, reference: Sequence[Tensor], outputs: Any, settings: Comparison) -> Agreement:
        """As `Task.compare_outputs`: the share of the pixels with the same class."""
        shares = (reference[-1].argmax(1) == outputs[-1].argmax(1)).flatten(1).double().mean(dim=1)
        return Agreement.count(shares >= settings.tolerance.same_pixels)

    @classmethod
    def default_semantic_classes(cls) -> SemanticClasses:
        """Numbered classes."""
        return SemanticClasses.from_count(MAX_SEMANTIC_CLASSES)


class SemanticPostprocess:
    """The class of each pixel, of the original image or at the size of the label."""

    def __init__(self, options: PostprocessOptions) -> None:
        self.options = options

    def __call__(self, preds: Any, batch: Batch) -> list[Prediction]:
        """One prediction per image.

        Args:
            preds: logits (B, n, H, W), or a sequence that starts with them.
        """
        logits: Tensor = preds if isinstance(preds, Tensor) else preds[0]
        if not self.options.original and batch.original_masks is None:
            return [Prediction(semantic_mask=scores.argmax(0).to(torch.uint8)) for scores in logits]
        fits = [fit for fit in batch.letterboxes if fit is not None]
        masks = (decode_semantic_mask(scores, fit) for scores, fit in zip(logits, fits, strict=True))
        return [Prediction(semantic_mask=mask.cpu() if self.options.original else mask) for mask in masks]


def get_plotted_mask(
    batch: Batch, number: int, predictions: Sequence[Prediction] | None, ignore: int
) -> np.ndarray | None:
    """(H, W) uint8 classes over the network input of image `number`, labeled or predicted; None without any."""
    if predictions is None:
        return None if batch.semantic_masks is None else batch.semantic_masks[number].cpu().numpy()
    mask = predictions[number].semantic_mask
    if mask is None:
        return None
    size_hw = batch.images.shape[2:]
    classes, fit = mask.to(torch.uint8).cpu().numpy(), batch.letterboxes[number]
    if fit is None or classes.shape == tuple(size_hw):
        return classes
    canvas = torch.full(tuple(size_hw), ignore, dtype=torch.uint8)
    inner = crop_padding(canvas, fit)
    resized = cv2.resize(classes, (inner.shape[1], inner.shape[0]), interpolation=cv2.INTER_NEAREST)
    inner.copy_(torch.from_numpy(resized))
    return canvas.numpy()


def compute_rarity_weights(pixels: np.ndarray) -> list[float]:
    """A weight per class, larger for rare ones: 1 / ln(1.02 + share of the pixels) (ENet, arXiv:1606.02147).

    Scaled so that their mean over the pixels is 1: the strength of the loss beside others does not change.
    """
    shares = pixels / max(pixels.sum(), 1)
    weights = 1 / np.log(1.02 + shares)
    weights /= (weights * shares).sum() or 1.0
    return [float(weight) for weight in weights]
