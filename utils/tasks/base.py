"""The interface of a task: everything that differs between kinds of models."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.graph import load_model_yaml
from models.yolo import BaseModel
from utils.config.detect import DetectConfig
from utils.config.hyp import Hyperparameters
from utils.config.train import TrainConfig
from utils.config.val import ValConfig
from utils.core.errors import InputError
from utils.core.types import Batch, EvalResult, Letterbox, Prediction, Sample
from utils.datasets.index.data_yaml import DataSpec, load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.loader import build_loader
from utils.datasets.masks import MaskBuilder
from utils.datasets.sources.frames import SourceFrame
from utils.datasets.step_loader import ParallelLoader, StepLoader
from utils.imaging.letterbox import letterbox
from utils.imaging.semantic_classes import SemanticClasses
from utils.losses.result import LossResult, Reduce, keep_local
from utils.metrics.agreement import Agreement, Comparison
from utils.ops.network_input import PixelStatistics
from utils.tasks.options import NO_OVERRIDES, DataOptions, Overrides, PostprocessOptions, SpecificOptions, TaskOptions
from utils.tasks.results import Result

if TYPE_CHECKING:
    from utils.backends.info import ModelInfo

Postprocess = Callable[[Any, Batch], list[Prediction]]

# flags of train.py and val.py that concern one task each; the others name them as unused
MASK_FLAGS = frozenset({"mask_ratio", "no_overlap"})
SEMANTIC_FLAGS = frozenset({"seg_loss", "aux_weights", "class_weights", "seg_imgsz", "seg_mosaic"})
JOINT_FLAGS = frozenset({"task_weights", "seg_batch_size", "balance", "joint_batches", "fitness"})


class Fit(Protocol):
    """Brings an image (H, W, C) to a network input; with `auto` to the smallest one within `size_hw` on the stride."""

    def __call__(
        self, frame: np.ndarray, size_hw: tuple[int, int], /, *, auto: bool = False, stride: int = 32
    ) -> tuple[np.ndarray, Letterbox]: ...


@dataclass(frozen=True)
class PredictionFiles:
    """Files of predictions that val.py writes.

    Attributes:
        folder: the run folder.
        text, scores: a text file per image; with scores.
        hybrid: with the labels too.
        json: COCO JSON file to write and to evaluate with COCO's metrics, or None.
        coco_ids: number the classes 1-90 as the COCO set does.
    """

    folder: Path
    text: bool = False
    scores: bool = False
    hybrid: bool = False
    json: Path | None = None
    coco_ids: bool = False


class Sink(Protocol):
    """Receives every validation batch with its predictions, in pixels of the network input.

    Each rank has a sink of its own, which receives the rank's batches; a file that needs all of them is put together
    in `close`, which every rank calls.
    """

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None: ...
    def close(self) -> None: ...


class Evaluator(Protocol):
    """Accumulates predictions of a split and computes metrics.

    Each rank evaluates a shard of the split. `state` returns what a rank has accumulated, as named arrays; `merge`
    replaces it by the states of all ranks, in order. Counts (a confusion matrix) are added up. Lists are joined in the
    order of a single process: batch k of the split was evaluated by rank k mod n.
    """

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None: ...
    def state(self) -> dict[str, np.ndarray]: ...
    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None: ...
    def compute(self) -> EvalResult: ...
    def plot(self, save_dir: Path) -> None: ...


class Task(ABC):
    """One kind of model: configs, network, data, losses, post-processing, metrics, plots and results.

    Class methods need no data; an object serves one data set.

    Args:
        spec: the data set.
        hyp: hyperparameters.
        options: settings of this run.
        channels: channels of the network input.

    Attributes:
        name: as in checkpoints and metadata of exported files.
        train_config, val_config, predict_config: settings of the commands with the task's defaults.
        unused_train_flags, unused_val_flags, unused_predict_flags: fields of these that the task ignores.
        options_type: the settings that only this task reads.
        hyp_defaults: hyperparameters where the file does not name them, other than `Hyperparameters` has.
        genes: hyperparameters that an evolution may change; None for all.
        graph_needs, example_cfg: layers that a model YAML needs ("" if any will do) and a shipped one, for messages.
        loss_names: columns of the training log, in the order of the loss items.
        csv_width: characters of a column of results.csv.
        lr_column: prefix of its learning-rate columns. logs_all_lrs: one per parameter group.
        train_plots: files of the first training batches.
        val_pad: strides of padding around rectangular validation images, as in the published results.
        val_plots: files of the first validation batches, with labels ("" for none) and with predictions.
        main_metrics: titles, and names in `EvalResult.metrics`, of what an exported model is judged by.
        pixels: how the input is normalized; None leaves it in [0, 1].
        fit: how an image is brought to the input size.
        square_input: images of any shape become inputs of one size, and test-time augmentation is not offered.
        floor_accumulation: as `Schedule.floor`.
        supports_int8, supports_nms: whether INT8 and NMS are offered for exported files.
        has_boxes: predictions have boxes, which can be tracked.
        supports_tiles: images can be cut into tiles, and the predictions of tiles be merged.
        in_original: whether the releases of YOLOv5 have a class for the network.
    """

    name: ClassVar[str]
    train_config: ClassVar[type[TrainConfig]] = TrainConfig
    val_config: ClassVar[type[ValConfig]] = ValConfig
    predict_config: ClassVar[type[DetectConfig]] = DetectConfig
    unused_train_flags: ClassVar[frozenset[str]] = MASK_FLAGS | SEMANTIC_FLAGS | JOINT_FLAGS
    unused_val_flags: ClassVar[frozenset[str]] = frozenset({"seg_imgsz"})
    unused_predict_flags: ClassVar[frozenset[str]] = frozenset()
    options_type: ClassVar[type[SpecificOptions]] = SpecificOptions
    hyp_defaults: ClassVar[Mapping[str, float]] = {}
    genes: ClassVar[tuple[str, ...] | None] = None
    graph_needs: ClassVar[str] = ""
    example_cfg: ClassVar[str] = ""
    loss_names: ClassVar[tuple[str, ...]]
    csv_width: ClassVar[int] = 20
    lr_column: ClassVar[str] = "x/lr"
    logs_all_lrs: ClassVar[bool] = True
    train_plots: ClassVar[tuple[str, ...]] = tuple(f"train_batch{i}.jpg" for i in range(3))
    val_pad: ClassVar[float] = 0.5
    val_plots: ClassVar[tuple[tuple[str, str], ...]] = tuple(
        (f"val_batch{i}_labels.jpg", f"val_batch{i}_pred.jpg") for i in range(3)
    )
    main_metrics: ClassVar[tuple[tuple[str, str], ...]]
    pixels: ClassVar[PixelStatistics | None] = None
    fit: ClassVar[Fit] = staticmethod(letterbox)
    square_input: ClassVar[bool] = False
    floor_accumulation: ClassVar[bool] = False
    supports_int8: ClassVar[bool] = True
    supports_nms: ClassVar[bool] = False
    has_boxes: ClassVar[bool] = False
    supports_tiles: ClassVar[bool] = False
    in_original: ClassVar[bool] = True

    class_names: dict[int, str]
    semantic: SemanticClasses | None = None

    def __init__(self, spec: DataSpec, hyp: Hyperparameters, options: TaskOptions, *, channels: int = 3) -> None:
        self.spec, self.hyp, self.options, self.channels = spec, hyp, options, channels
        self.specific: Any = self.options_type() if options.specific is None else options.specific
        self._indexes: dict[str, ImageIndex] = {}

    def with_options(self, **changes: Any) -> Self:
        """The same task, data and loss with other options."""
        twin = copy.copy(self)
        twin.options = replace(self.options, **changes)
        return twin

    # -- settings --------------------------------------------------------------------------------------------------

    @classmethod
    def build_train_options(cls, config: TrainConfig, **resolved: Any) -> TaskOptions:
        """Options of a training run.

        Args:
            resolved: fields of `DataOptions` that the config does not settle, such as the rounded `imgsz`.
        """
        names = (
            *("imgsz", "batch_size", "workers", "seed", "cache", "rect", "quad", "single_cls", "mosaic_epochs"),
            *("tile", "tile_overlap", "tile_visible"),
        )
        return TaskOptions(
            data=DataOptions(**{name: getattr(config, name) for name in names} | resolved),
            postprocess=PostprocessOptions(single_cls=config.single_cls),
            specific=cls.options_type.from_train_config(config),
        )

    @classmethod
    def check_tile(cls, tile: int | None, flag: str = "--tile") -> None:
        """InputError if tiles are wanted and the task does not support them."""
        if tile is not None and not cls.supports_tiles:
            raise InputError(f"{flag}: not supported for task {cls.name!r}; leave it out")

    @classmethod  # noqa: B027 - nothing to check is the default
    def check_predict_settings(cls, config: DetectConfig, *, num_classes: int, nms_in_file: bool) -> None:
        """Warn of settings of detect.py that the model ignores.

        Args:
            nms_in_file: the exported file holds NMS.

        Raises:
            InputError: a setting cannot be used.
        """

    # -- data ------------------------------------------------------------------------------------------------------

    @staticmethod
    def load_data(data: str | Path, *, prepare: bool = True) -> DataSpec:
        """The data set of a YAML, downloaded or generated first unless `prepare` is off."""
        return load_spec(data, prepare=prepare)

    @staticmethod
    def get_class_names(spec: DataSpec) -> Mapping[int, str]:
        """Names of the classes that a network of this task has on a data set."""
        return spec.names

    @staticmethod
    @abstractmethod
    def load_index(spec: DataSpec, split: str) -> ImageIndex:
        """The images of a split; labels may be missing."""

    @abstractmethod
    def get_index(self, split: str) -> ImageIndex:
        """The verified images and labels of a split, read once."""

    def build_train_loader(self) -> StepLoader:
        """Augmented training batches."""
        data = self.options.data
        return self._build_loader(
            "train", augment=True, shuffle=not data.rect, batch_size=data.batch_size, rect=data.rect, pad=0.0
        )

    def build_eval_loader(
        self, split: str, *, batch_size: int | None = None, rect: bool = True, pad: float | None = None
    ) -> StepLoader:
        """Batches of a split without augmentation.

        Args:
            batch_size: None for that of the options.
            rect: letterbox the images of a batch into the smallest rectangle, plus `pad` strides (None: `val_pad`).
        """
        data = self.options.data
        return self._build_loader(
            split,
            augment=False,
            shuffle=False,
            batch_size=batch_size or data.batch_size,
            rect=rect and data.fixed_hw is None,
            pad=self.val_pad if pad is None else pad,
        )

    def _build_loader(self, split: str, *, augment: bool, shuffle: bool, batch_size: int, **shape: Any) -> StepLoader:
        data = self.options.data
        loader = build_loader(
            self.build_dataset(split, augment=augment, batch_size=batch_size, **shape),
            batch_size=batch_size,
            workers=data.workers,
            shuffle=shuffle,
            seed=data.seed,
            quad=data.quad and augment,
            pin_memory=data.pin_memory,
            masks=self.get_mask_builder(augment=augment),
        )
        return ParallelLoader(loader)

    @abstractmethod
    def build_dataset(self, split: str, *, augment: bool, batch_size: int, rect: bool, pad: float) -> Dataset[Sample]:
        """The samples of a split; `rect` and `pad` as in `build_eval_loader`."""

    def get_mask_builder(self, *, augment: bool) -> MaskBuilder | None:
        """What builds the instance masks of training or validation batches; None for no masks."""
        return None

    @abstractmethod
    def compute_image_weights(self, per_class: np.ndarray) -> np.ndarray:
        """(images,) sampling weights of the training images: higher for rare classes of a low metric.

        Args:
            per_class: (num_classes,) the metric of each class, 0 to 1.
        """

    # -- network ---------------------------------------------------------------------------------------------------

    @staticmethod
    def load_graph(cfg: str | Path) -> dict[str, Any]:
        """The content of `--cfg`."""
        return load_model_yaml(cfg)

    @classmethod
    @abstractmethod
    def matches_graph(cls, layers: frozenset[str], source: str) -> bool:
        """Whether a model YAML with rows of these layers is one of this task; `source` names it in messages."""

    @classmethod
    @abstractmethod
    def build_network(cls, graph: Mapping[str, Any], ch: int = 3, overrides: Overrides = NO_OVERRIDES) -> BaseModel:
        """A network of this task.

        Args:
            graph: content of the model YAML.
            ch: input channels, unless the YAML names them.
        """

    @classmethod
    def restore_network(cls, graph: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> BaseModel:
        """The network of a checkpoint, before its weights are loaded; `graph` has all overrides of training in it."""
        return cls.build_network(graph)

    @classmethod
    def get_stride(cls, graph: Mapping[str, Any]) -> int:
        """Largest stride of a network, at least 32; built without storage or random draws."""
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return max(int(cls.build_network(graph).stride.max()), 32)

    @abstractmethod
    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel:
        """A fresh network for this data set's classes."""

    @abstractmethod
    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None:
        """What precedes the first epoch of a new run: plots of the labels, anchors that fit them."""

    @abstractmethod
    def bind(self, model: BaseModel) -> None:
        """Build the loss for a network."""

    # -- step ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def losses(self, preds: Any, batch: Batch, *, reduce: Reduce = keep_local) -> LossResult | None:
        """The loss of a training output; None for outputs that allow none, such as those of exported files.

        Args:
            reduce: adds counts over the ranks that share the batch, so that the losses of their shards, and the
                gradients, add up to those of the whole batch.
        """

    @classmethod
    @abstractmethod
    def outputs_agree(cls, exact: Any, mixed: Any) -> bool:
        """Whether outputs of one image in evaluation mode, in FP32 and under autocast, are nearly the same."""

    @classmethod
    @abstractmethod
    def build_postprocess(cls, options: PostprocessOptions) -> Postprocess:
        """The post-processing of val.py, detect.py, the hub and exported files."""

    def postprocess(self, preds: Any, batch: Batch) -> list[Prediction]:
        """The predictions of a validation batch."""
        return self.build_postprocess(self.options.postprocess)(preds, batch)

    def state_dict(self) -> dict[str, Any]:
        """State of the loss that an exact resume needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore `state_dict()`."""

    # -- metrics and plots -----------------------------------------------------------------------------------------

    @abstractmethod
    def build_evaluator(self) -> Evaluator:
        """Metrics over a split."""

    def build_sinks(self, files: PredictionFiles, split: str) -> list[Sink]:
        """Writers of the predictions of a split; none unless the task has files of its own."""
        return []

    def build_results_row(
        self, losses: Mapping[str, float], metrics: Mapping[str, float], val_losses: Mapping[str, float]
    ) -> dict[str, float]:
        """An epoch's row of results.csv: training losses, metrics, validation losses."""
        row = {f"train/{name}": value for name, value in losses.items()}
        return row | dict(metrics) | {f"val/{name}": value for name, value in val_losses.items()}

    @abstractmethod
    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        """Draw a batch with its labels, or with predictions."""

    # -- prediction ------------------------------------------------------------------------------------------------

    @classmethod
    def build_result(
        cls,
        item: SourceFrame,
        prediction: Prediction,
        names: Mapping[int, str],
        input_hw: tuple[int, int],
        ms: tuple[float, float, float],
        semantic: SemanticClasses | None = None,
    ) -> Result:
        """What detect.py logs, draws and writes of one image.

        Args:
            prediction: in pixels of the original image.
            input_hw: size of the network input.
            ms: milliseconds of pre-processing, inference and post-processing.
            semantic: classes of the model's semantic masks.
        """
        boxes = cls.get_boxes(prediction, item.size_hw).numpy()
        mask = None if prediction.semantic_mask is None else prediction.semantic_mask.numpy()
        return Result(item, boxes, names, input_hw, ms, prediction.bitmaps, mask, semantic)

    @staticmethod
    def get_boxes(prediction: Prediction, size_hw: tuple[int, int]) -> Tensor:
        """(n, 6) x1, y1, x2, y2, score, class of a prediction for an image of this size."""
        return torch.zeros(0, 6) if prediction.boxes is None else prediction.boxes

    @staticmethod
    def get_raw_output(output: Any) -> Any:
        """What the hub returns for a batch of tensors, as normal tensors: decoded rows, or logits."""
        first: Tensor = output[0] if isinstance(output, tuple | list) else getattr(output, "rows", output)
        return first.clone()

    # -- exported files --------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def matches_outputs(cls, info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
        """Whether outputs of an exported file have the shapes that its metadata promise; more outputs may follow."""

    @classmethod
    @abstractmethod
    def compare_outputs(cls, reference: Sequence[Tensor], outputs: Any, settings: Comparison) -> Agreement:
        """Post-process the outputs of PyTorch and of an exported file for one batch and count what agrees.

        Args:
            reference: PyTorch's raw outputs, on the CPU.
            outputs: those of the file, or its `NMSOutput` detections.
        """

    @classmethod
    def count_classes(cls, outputs: Sequence[Tensor]) -> int | None:
        """Number of classes that outputs of an exported file have scores for; None if the shapes do not show it."""
        return None

    @classmethod
    def default_semantic_classes(cls) -> SemanticClasses | None:
        """Classes of semantic masks for an exported file that names none; None for tasks without masks."""
        return None


def round_up(pixels: int, stride: int) -> int:
    """The next multiple of the stride."""
    return -(-pixels // stride) * stride
