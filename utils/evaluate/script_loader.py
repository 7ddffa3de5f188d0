"""Validation of a network on the loader of a training script, as YOLOv5's train.py calls `val.run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.config.hyp import Hyperparameters
from utils.config.val import ValConfig
from utils.core.distributed import is_main_process
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.index.data_yaml import DataSpec, SplitSource
from utils.evaluate.run import COCO_CLASSES, is_coco_set
from utils.evaluate.sinks import PlotSink
from utils.evaluate.validator import ValidationResult, validate
from utils.losses.result import LossResult
from utils.metrics.detection import DetectionEvaluator
from utils.ops.boxes import undo_letterbox
from utils.tasks.base import PredictionFiles, Sink
from utils.tasks.detect import DetectionTask
from utils.tasks.options import DataOptions, PostprocessOptions, TaskOptions
from utils.tasks.registry import find_task
from utils.tasks.segment import SegmentationOptions, SegmentationTask


@dataclass(frozen=True)
class Script:
    """What a training script hands to `val.run`, beside the options of the command line.

    Attributes:
        data: dict of `check_dataset`, with the keys names, nc and val.
        loader: yields (images (B, C, H, W) uint8, targets (n, 6) image index, class, xywhn, paths, shapes), for
            instance segmentation also masks. Shapes are ((h, w) of the image, ((ratio_h, ratio_w), (pad_w, pad_h))).
        save_dir: folder of plots and files.
        callbacks: object with `run(hook, *args)`, or None.
        compute_loss: gives (loss, items) of raw outputs and targets, or None for losses of 0.
        overlap: masks are one map per image of the number of the label at each pixel, from 1.
    """

    data: Mapping[str, Any]
    loader: Any
    save_dir: Path = Path()
    plots: bool = True
    callbacks: Any = None
    compute_loss: Any = None
    overlap: bool = False


def evaluate_in_script(model: nn.Module, config: ValConfig, script: Script) -> ValidationResult:
    """Metrics and losses of a network, which is left in evaluation mode and FP32.

    Raises:
        InputError: the network is no detector or instance segmenter.
    """
    task = build_task(model, config, script)
    device = next(model.parameters()).device
    half = config.half and device.type != "cpu"
    model.half() if half else model.float()
    model.eval()
    hooks = HookSink(script.callbacks, task.class_names)
    hooks.run("on_val_start")
    result = validate(
        task,
        lambda images, **options: _to_tuple(model(images, **options)),
        ScriptLoader(script.loader, overlap=script.overlap, single_cls=config.single_cls),
        device=device,
        dtype=torch.float16 if half else torch.float32,
        augment=config.augment,
        sinks=[*build_sinks(task, config, script), *([hooks] if script.callbacks else [])],
        progress="validating",
        before_batch=lambda: hooks.run("on_val_batch_start"),
    )
    model.float()
    LOGGER.info(result.evaluation.table)
    if script.plots and is_main_process():
        result.evaluator.plot(script.save_dir)
    if script.callbacks and isinstance(result.evaluator, DetectionEvaluator):
        hooks.run("on_val_end", *list_val_end_values(result.evaluator))
    return result


def build_task(model: Any, config: ValConfig, script: Script) -> DetectionTask:
    """The task of a network, with the classes of the script's data and its loss."""
    kind = find_task(getattr(model, "task", "detect"))
    if not issubclass(kind, DetectionTask):
        raise InputError(f"model: task {kind.name!r} cannot be validated within a script; give weights instead")
    names = _number(script.data.get("names") or getattr(model, "names", None) or {})
    if not config.single_cls and len(names) != int(script.data.get("nc") or len(names)):
        names = {number: str(number) for number in range(int(script.data["nc"]))}
    options = TaskOptions(
        DataOptions(imgsz=config.imgsz, batch_size=config.batch_size, single_cls=config.single_cls),
        PostprocessOptions(config.conf_thres, config.iou_thres, max_det=config.max_det, single_cls=config.single_cls),
        SegmentationOptions(no_overlap=not script.overlap) if issubclass(kind, SegmentationTask) else None,
        verbose=config.verbose,
    )
    task = kind(build_spec(script.data, names), Hyperparameters(), options)
    if script.compute_loss is not None:
        task.set_loss(ScriptLoss(script.compute_loss, task.loss_names))
    return task


def build_spec(data: Mapping[str, Any], names: dict[int, str]) -> DataSpec:
    """The data set of a dict of `check_dataset`."""
    root = Path(str(data.get("path") or "."))
    splits = {}
    for split in ("train", "val", "test"):
        if entries := data.get(split):
            paths = [entries] if isinstance(entries, str | Path) else entries
            splits[split] = SplitSource(split, tuple(root / path for path in paths))
    return DataSpec(Path(str(data.get("yaml_file") or root / "data.yaml")), root, names, splits, data)


def build_sinks(task: DetectionTask, config: ValConfig, script: Script) -> list[Sink]:
    """Plots and prediction files that the options select."""
    is_coco = isinstance(val := script.data.get("val"), str) and val.endswith("coco/val2017.txt")
    files = PredictionFiles(
        folder=script.save_dir,
        text=config.save_txt or config.save_hybrid,
        scores=config.save_conf,
        hybrid=config.save_hybrid,
        json=script.save_dir / "best_predictions.json" if config.save_json or config.coco else None,
        coco_ids=(is_coco or is_coco_set(str(script.data.get("yaml_file")))) and len(task.class_names) == COCO_CLASSES,
    )
    if script.plots or files.text or files.json:
        script.save_dir.mkdir(parents=True, exist_ok=True)
    plots: list[Sink] = [PlotSink(task, script.save_dir)] if script.plots else []
    return plots + task.build_sinks(files, "val")


class ScriptLoader:
    """A `StepLoader` over the loader of a script, see `Script.loader`."""

    def __init__(self, loader: Any, *, overlap: bool = False, single_cls: bool = False) -> None:
        self.loader, self.overlap, self.single_cls = loader, overlap, single_cls

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        """The order is that of the loader."""

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Batch]]:
        for images, targets, paths, shapes, *masks in self.loader:
            size_hw = (int(images.shape[2]), int(images.shape[3]))
            letterboxes: list[Letterbox | None] = [_to_letterbox(shape, size_hw) for shape in shapes]
            batch = Batch(
                images.to(torch.uint8), targets.to(torch.float32, copy=True), list(map(str, paths)), letterboxes
            )
            if self.single_cls:
                batch.targets[:, 1] = 0
            if masks:
                batch.masks = self._to_masks(masks[0], batch)
            yield [batch]

    def _to_masks(self, masks: Tensor, batch: Batch) -> Tensor:
        """(n, h, w) bool, one mask per target."""
        if not self.overlap:
            return masks > 0
        image = batch.targets[:, 0].long()
        first = torch.searchsorted(image, image)  # row of the first label of each image; targets are in order
        numbers = torch.arange(len(image)) - first + 1
        return masks[image] == numbers[:, None, None]


class ScriptLoss(nn.Module):
    """The loss of a script in the place of a task's own.

    Args:
        compute_loss: as `Script.compute_loss`.
        names: of its items.
    """

    def __init__(self, compute_loss: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.compute_loss, self.names = [compute_loss], tuple(names)  # in a list: no submodule

    def forward(self, maps: Any, *args: Tensor, reduce: Any = None) -> LossResult:
        """The items for (maps, targets), or (maps, prototypes, targets, masks)."""
        (compute,) = self.compute_loss
        if len(args) == 1:
            total, items = compute(maps, args[0])
        else:
            prototypes, targets, masks = args
            total, items = compute((maps, prototypes), targets, masks.float())
        return LossResult(total, dict(zip(self.names, items, strict=True)))


class HookSink:
    """Runs the validation hooks of `utils.callbacks` for every image and batch.

    Args:
        callbacks: object with `run(hook, *args)`, or None.
        names: class names by number.
    """

    def __init__(self, callbacks: Any, names: Mapping[int, str]) -> None:
        self.callbacks, self.names, self.batches = callbacks, names, 0

    def run(self, hook: str, *args: Any) -> None:
        """Run a hook, if there are callbacks."""
        if self.callbacks is not None:
            self.callbacks.run(hook, *args)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Run the hooks of each image, then that of the batch, with the arguments of `Loggers` in `utils.loggers`.

        `pred` and `out` are (n, 6) boxes in pixels of the network input, `predn` of the image.
        """
        boxes = [prediction.boxes for prediction in predictions]
        for number, (rows, letterbox) in enumerate(zip(boxes, batch.letterboxes, strict=True)):
            if rows is not None and letterbox is not None:
                native = undo_letterbox(rows, letterbox)
                self.run("on_val_image_end", rows, native, batch.paths[number], self.names, batch.images[number])
        shapes = [_to_shape(letterbox) for letterbox in batch.letterboxes]
        self.run("on_val_batch_end", self.batches, batch.images, batch.targets, batch.paths, shapes, boxes)
        self.batches += 1

    def close(self) -> None:
        """Nothing to close."""


def list_val_end_values(evaluator: DetectionEvaluator) -> tuple[Any, ...]:
    """Arguments of `on_val_end`: labels per class, tp, fp, p, r, f1, ap, ap50, classes, confusion matrix."""
    result = evaluator.results[0]
    labels = np.bincount(evaluator.state()["labels"].astype(np.int64), minlength=len(evaluator.names))
    values = (result.tp, result.fp, result.p, result.r, result.f1, result.ap_mean, result.ap50)
    return labels, *values, result.classes, evaluator.confusion


@torch.inference_mode()
def evaluate_classifier(model: nn.Module, loader: Any, criterion: Any = None) -> tuple[float, float, float]:
    """Top-1 accuracy, top-5 accuracy and mean loss of a classifier on a script's loader of (images, labels)."""
    model.eval()
    parameter = next(model.parameters())
    hits: list[Tensor] = []
    losses: list[float] = []
    for images, labels in loader:
        labels = labels.to(parameter.device)
        logits = model(images.to(parameter))
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits.append((best == labels[:, None]).cpu())
        losses.append(0.0 if criterion is None else float(criterion(logits, labels)))
    if not hits:
        raise InputError("dataloader: it has no images")
    correct = torch.cat(hits).float()
    return float(correct[:, 0].mean()), float(correct.amax(dim=1).mean()), float(np.mean(losses))


def _to_tuple(preds: Any) -> Any:
    return tuple(preds) if isinstance(preds, list) else preds


def _number(names: Any) -> dict[int, str]:
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {int(number): str(name) for number, name in pairs}


def _to_letterbox(shape: Any, input_hw: tuple[int, int]) -> Letterbox:
    """Of an entry of `shapes`; the padding may have halves of a pixel. None means images of the input size."""
    if shape is None:
        return Letterbox(input_hw)
    (height, width), ((ratio, _), (pad_w, pad_h)) = shape
    return Letterbox((int(height), int(width)), (float(ratio), float(ratio)), (pad_w, pad_h))


def _to_shape(letterbox: Letterbox | None) -> Any:
    if letterbox is None:
        return None
    return letterbox.original_hw, (letterbox.ratio_wh[::-1], letterbox.pad_wh)
