"""What the engine asks of a task; it never asks which task it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from models.yolo import BaseModel
from utils.config.base import TrainConfig, ValConfig
from utils.config.classify import CROP_AREA, JITTER
from utils.config.hyp import Hyperparameters
from utils.core.device import single_threaded
from utils.core.types import Batch, EvalResult, Letterbox, Prediction
from utils.datasets.detection import ROUND
from utils.datasets.index.data_yaml import DataSpec
from utils.datasets.index.image_index import ImageIndex
from utils.imaging.letterbox import MOST_CHANNELS, letterbox
from utils.imaging.semantic_classes import SemanticClasses
from utils.losses.detection import LossResult

Fit = Callable[[np.ndarray, tuple[int, int]], tuple[np.ndarray, Letterbox]]  # (H, W, C), size -> (h, w, C)


@dataclass(frozen=True)
class TaskOptions:
    """Settings of a run that a task needs, whichever command it serves.

    Attributes:
        imgsz: side of the network input in pixels, already a multiple of the largest stride.
        batch_size: images in a batch.
        workers: loader processes, at most.
        cache: None, "ram", "disk" or "val" (the validation split in RAM).
        conf_thres, iou_thres, max_det: post-processing of validation.
        autobalance, image_weights, quad, rect: as the flags of train.py.
        mask_ratio, no_overlap: as the flags of segment/train.py.
        cutoff, dropout, crop_area, jitter: as the flags of classify/train.py.
        class_weights: as its flag; of train.py, also a weight per class.
        seg_imgsz: longer side at which semantic masks are measured; None for that of `imgsz`.
        seg_mosaic, seg_loss, aux_weights, task_weights, seg_batch_size, balance, joint_batches, fitness: as the flags
            of train.py.
        published_weights: start a torchvision network from the weights that are published for it.
        stride: of the model that is measured; a model in training says its own when it is bound.
        fixed_hw: the only input size of an exported model, which all images are fitted into; None where it is free.
        mosaic_epochs: epochs with mosaics, the first ones; None for all.
        pin_memory: load into page-locked memory, from which CUDA copies faster.
    """

    imgsz: int = 640
    batch_size: int = 16
    workers: int = 8
    seed: int = 0
    cache: str | None = None
    rect: bool = False
    quad: bool = False
    image_weights: bool = False
    single_cls: bool = False
    autobalance: bool = False
    conf_thres: float = 0.001
    iou_thres: float = 0.6
    max_det: int = 300
    verbose: bool = False
    mask_ratio: int = 4
    no_overlap: bool = False
    cutoff: int | None = None
    dropout: float | None = None
    crop_area: float = CROP_AREA
    jitter: float = JITTER
    class_weights: bool | Sequence[float] = False
    seg_imgsz: int | None = None
    seg_mosaic: bool = False
    seg_loss: str = "ce"
    aux_weights: Sequence[float] = (0.15, 0.05)
    task_weights: Sequence[float] = (0.6, 0.35)
    seg_batch_size: int | None = None
    balance: str = "longest"
    joint_batches: str = "auto"
    fitness: Sequence[float] = (0.1, 0.2, 0.7)
    published_weights: bool = False
    stride: int = 32
    fixed_hw: tuple[int, int] | None = None
    mosaic_epochs: int | None = None
    pin_memory: bool = False


@dataclass(frozen=True)
class Outputs:
    """Files of predictions that val.py is asked for.

    Attributes:
        folder: the run folder.
        text, scores: text files of an image each; with the score.
        hybrid: the labels in the text files too.
        json: COCO JSON file to write and to measure with COCO's own metrics, or None.
        coco_ids: number the classes 1-90 as the COCO set does.
    """

    folder: Path
    text: bool = False
    scores: bool = False
    hybrid: bool = False
    json: Path | None = None
    coco_ids: bool = False


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and deviation of each channel, of pixels in 0-1, by which a network wants its input normalized."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def normalize_(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in 0-1 normalized in place; their averages serve other numbers of channels."""
        mean, deviation = images.new_tensor(self.mean), images.new_tensor(self.deviation)
        if images.shape[1] != len(mean):
            mean, deviation = mean.mean().view(1), deviation.mean().view(1)
        return images.sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1))


MASK_FLAGS = frozenset({"mask_ratio", "no_overlap"})
SEMANTIC_FLAGS = frozenset({"seg_loss", "aux_weights", "class_weights", "seg_imgsz", "seg_mosaic"})
JOINT_FLAGS = frozenset({"task_weights", "seg_batch_size", "balance", "joint_batches", "fitness"})
SCALED_BYTES = (torch.arange(256) / 255).numpy()  # what a pixel of each value becomes
IMAGENET = PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Traits:
    """What the engine has to know of a kind of task before there is a data set or a network.

    Attributes:
        train_config, val_config: settings with the task's defaults.
        csv_width: characters of a column of results.csv.
        rate_name: what its columns of learning rates start with; `all_rates`: one for each parameter group.
        train_images: files of the first training batches.
        val_images: files of the first validation batches, with labels ("" for none) and with predictions.
        pixels: how the input is normalized; None leaves it in 0-1.
        fit: how an image is brought to an input size where nothing else is asked for.
        qualities: what an exported model is judged by: a title, and the name in `EvalResult.metrics`.
        unused, val_unused: fields of `train_config` and of `val_config` that play no part.
        hyp_defaults: hyperparameters where the file does not name them, other than `Hyperparameters` has.
        floor_accumulation: as `Schedule.floor`.
        genes: hyperparameters that an evolution may change; None for all of its table.
    """

    train_config: type[TrainConfig] = TrainConfig
    val_config: type[ValConfig] = ValConfig
    csv_width: int = 20
    rate_name: str = "x/lr"
    all_rates: bool = True
    train_images: tuple[str, ...] = tuple(f"train_batch{i}.jpg" for i in range(3))
    val_images: tuple[tuple[str, str], ...] = tuple(
        (f"val_batch{i}_labels.jpg", f"val_batch{i}_pred.jpg") for i in range(3)
    )
    pixels: PixelStatistics | None = None
    fit: Fit = letterbox
    qualities: tuple[tuple[str, str], ...] = (("mAP50-95", "metrics/mAP_0.5:0.95"),)
    unused: frozenset[str] = MASK_FLAGS | SEMANTIC_FLAGS | JOINT_FLAGS
    val_unused: frozenset[str] = frozenset({"seg_imgsz"})
    hyp_defaults: Mapping[str, float] = field(default_factory=dict)
    floor_accumulation: bool = False
    genes: tuple[str, ...] | None = None


class Sink(Protocol):
    """Receives every batch with its predictions, in pixels of the network input.

    Of several processes each has a sink, which receives this process's batches; a file that needs all of them is put
    together in `close`, which every process calls.
    """

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None: ...
    def close(self) -> None: ...


class Evaluator(Protocol):
    """Collects predictions of a split and turns them into metrics.

    Several processes measure a part of the split each. `state` is what this one has collected, as named arrays of
    numbers; `merge` takes the states of all, in the order of their numbers, in place of its own. Counts are added up
    (a confusion matrix: `state` returns it, `merge` keeps the sum). Lists are joined in the order of a single process,
    which is by turns: batch k of the split was measured by process k mod n (`utils.core.distributed.in_turns`).
    """

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None: ...
    def state(self) -> dict[str, np.ndarray]: ...
    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None: ...
    def compute(self) -> EvalResult: ...
    def plot(self, save_dir: Path) -> None: ...


class StepLoader(Protocol):
    """Yields the batches of each optimizer step; their order depends on seed and epoch only."""

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[list[Batch]]: ...


class Task(Protocol):
    """One kind of model: its network, data, losses, post-processing and metrics."""

    name: str
    traits: Traits
    loss_names: tuple[str, ...]
    class_names: dict[int, str]
    hyp: Hyperparameters
    options: TaskOptions
    semantic: SemanticClasses | None

    @staticmethod
    def load_data(data: str | Path, *, prepare: bool = True) -> DataSpec: ...
    @staticmethod
    def names_in(spec: DataSpec) -> Mapping[int, str]: ...
    @staticmethod
    def list_images(spec: DataSpec, split: str) -> ImageIndex: ...
    @staticmethod
    def load_graph(cfg: str | Path) -> dict[str, Any]: ...
    def results_row(
        self, losses: Mapping[str, float], metrics: Mapping[str, float], val_losses: Mapping[str, float]
    ) -> dict[str, float]: ...
    def build_model(self, cfg: str | Mapping[str, Any]) -> BaseModel: ...
    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None: ...
    def bind(self, model: BaseModel) -> None: ...
    def train_loader(self) -> StepLoader: ...
    def eval_loader(self, split: str, **overrides: Any) -> StepLoader: ...
    def image_weights(self, per_class: np.ndarray) -> np.ndarray: ...
    def losses(self, preds: Any, batch: Batch) -> LossResult | None: ...
    def outputs_agree(self, exact: Any, mixed: Any) -> bool: ...
    def postprocess(self, preds: Any, batch: Batch) -> list[Prediction]: ...
    def build_evaluator(self) -> Evaluator: ...
    def build_sinks(self, outputs: Outputs, split: str) -> list[Sink]: ...
    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Steps:
    """A StepLoader over one or several loaders walked side by side.

    Args:
        balance: "longest" or "shortest", the loader that an epoch goes through once. With the longest the others start
            over with an order and augmentations of their own, which follow from (seed, epoch, round).
    """

    def __init__(self, *loaders: Any, balance: str = "shortest") -> None:
        self.loaders, self.balance = loaders, balance
        self._epoch: tuple[int, np.ndarray | None] = (0, None)
        self._first = 0

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        """Choose the epoch that decides order and augmentation; weights are those of the first loader's images.

        Args:
            first: steps of the epoch that are passed over.
        """
        self._epoch, self._first = (epoch, image_weights), first

    def __len__(self) -> int:
        choose = max if self.balance == "longest" else min
        return choose(len(loader) for loader in self.loaders)

    def __iter__(self) -> Iterator[list[Batch]]:
        endless = [self._rounds(number) for number in range(len(self.loaders))]
        return ([next(batches) for batches in endless] for _ in range(self._first, len(self)))

    def _rounds(self, number: int) -> Iterator[Batch]:
        """The batches of loader `number`, round after round."""
        epoch, image_weights = self._epoch
        loader, weights = self.loaders[number], None if number else image_weights
        round_, first = divmod(self._first, max(len(loader), 1))
        for later in count(round_):
            loader.set_epoch(epoch + later * ROUND, weights, first if later == round_ else 0)
            yield from loader


def image_file(name: str, batch: Batch) -> str:
    """The file of a drawn batch: `val_batch0_pred.jpg`, `val_batch0_semantic_pred.jpg` for one of that kind."""
    if not batch.kind:
        return name
    head, separator, tail = name.partition("_labels" if "_labels" in name else "_pred" if "_pred" in name else ".")
    return f"{head}_{batch.kind}{separator}{tail}"


class InputBuffer:
    """As `images_to_device`, into memory that is kept from batch to batch: new memory costs more than the conversion.

    What it gives is overwritten at the next call, so it serves passes without gradients.

    Args:
        own_threads: what takes the input has threads of its own, see `utils.core.device.single_threaded`, and takes it
            plane by plane; else it gets channels_last.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        pixels: PixelStatistics | None = None,
        *,
        own_threads: bool = False,
    ) -> None:
        self.device, self.pixels, self.own_threads = device, pixels, own_threads
        self._looks_up = device.type == "cpu" and dtype == torch.float32
        self._memory = torch.empty(0, dtype=dtype, device=device)

    def load(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> float in [0, 1], or normalized."""
        if self._memory.numel() < images.numel():
            self._memory = self._memory.new_empty(images.numel())
        stored = _planes(images) if self.own_threads else images.permute(0, 2, 3, 1)
        scaled = self._memory[: images.numel()].view(stored.shape)
        with single_threaded(self.own_threads):
            if self._looks_up:
                _look_up(stored, scaled)
            else:
                scaled.copy_(stored, non_blocking=True).div_(255)
            loaded = scaled if self.own_threads else scaled.permute(0, 3, 1, 2)
            return loaded if self.pixels is None else self.pixels.normalize_(loaded)


def _planes(images: Tensor) -> Tensor:
    """(B, C, H, W) uint8, contiguous: on the CPU by OpenCV, five times as fast as torch for interleaved pixels."""
    if images.is_contiguous() or images.device.type != "cpu" or images.shape[1] > MOST_CHANNELS:
        return images.contiguous()
    planes = np.empty(images.shape, np.uint8)
    for frame, split in zip(images.permute(0, 2, 3, 1).numpy(), planes, strict=True):
        cv2.split(frame, list(split))
    return torch.from_numpy(planes)


def _look_up(stored: Tensor, scaled: Tensor) -> None:
    """Fill `scaled` with `stored` / 255, both of one shape and contiguous, in one pass instead of two."""
    rows = (-1, stored.shape[-1])
    cv2.LUT(stored.reshape(rows).numpy(), SCALED_BYTES, dst=scaled.view(rows).numpy())


def images_to_device(
    images: Tensor,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    pixels: PixelStatistics | None = None,
) -> Tensor:
    """(B, C, H, W) uint8 -> channels_last float in [0, 1], or normalized; divided on `device`: less has to travel."""
    images = images.to(device, non_blocking=True)
    scaled = images.to(dtype, memory_format=torch.channels_last).div_(255)
    return scaled if pixels is None else pixels.normalize_(scaled)


def names_of_data(spec: DataSpec) -> Mapping[int, str]:
    """The names that a network's classes have in most tasks."""
    return spec.names


def standard_row(
    losses: Mapping[str, float], metrics: Mapping[str, float], val_losses: Mapping[str, float]
) -> dict[str, float]:
    """An epoch's numbers by their columns in results.csv: training losses, metrics, validation losses."""
    row = {f"train/{name}": value for name, value in losses.items()}
    return row | dict(metrics) | {f"val/{name}": value for name, value in val_losses.items()}
