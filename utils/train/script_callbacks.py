"""Training hooks of `utils.callbacks`, with the arguments that scripts for YOLOv5 expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.types import Batch, Prediction
from utils.evaluate.script_loader import HookSink, list_val_end_values
from utils.evaluate.validator import ValidationResult
from utils.losses.meter import LossMeter
from utils.metrics.detection import DetectionEvaluator

if TYPE_CHECKING:
    from utils.train.trainer import FitResult, Trainer


class ScriptCallbacks:
    """Passes the hooks of a run on, with positional arguments as those of `Loggers` in `utils.loggers`.

    Args:
        target: object with `run(hook, *args)`; training ends after the epoch in which its `stop_training` is true.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self.trainer: Trainer | None = None
        self.sink = HookSink(target, {})

    @property
    def fitness(self) -> tuple[float, float]:
        """Best and latest fitness."""
        assert self.trainer is not None
        return max(self.trainer.stopping.best_fitness, self.latest_fitness), self.latest_fitness

    latest_fitness = 0.0

    # -- run -------------------------------------------------------------------------------------------------------

    def on_pretrain_routine_start(self) -> None:
        self.target.run("on_pretrain_routine_start")

    def on_pretrain_routine_end(self, trainer: Trainer) -> None:
        """With (labels (n, 5) class, xywhn of the training set, names)."""
        self.trainer, names = trainer, trainer.task.class_names
        self.sink.names = names
        index = trainer.task.get_index("train")
        boxes = np.asarray(index.boxes_xywhn).reshape(-1, 4)
        classes = np.asarray(index.classes)[: len(boxes)].reshape(-1, 1)
        self.target.run("on_pretrain_routine_end", np.concatenate([classes, boxes], axis=1), names)

    def on_params_update(self, params: Mapping[str, Any]) -> None:
        self.target.run("on_params_update", dict(params))

    def on_train_start(self) -> None:
        self.target.run("on_train_start")

    def on_train_end(self, result: FitResult) -> None:
        """With (last, best, epoch, metrics and losses of the final validation)."""
        results = [*result.metrics.values(), *result.losses.values()]
        self.target.run("on_train_end", result.last, result.best, result.epochs - 1, results)

    def teardown(self) -> None:
        self.target.run("teardown")

    # -- epochs and steps ------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, **_: Any) -> None:
        self.target.run("on_train_epoch_start")

    def on_train_batch_start(self, **_: Any) -> None:
        self.target.run("on_train_batch_start")

    def optimizer_step(self, **_: Any) -> None:
        self.target.run("optimizer_step")

    def on_before_zero_grad(self, **_: Any) -> None:
        self.target.run("on_before_zero_grad")

    def on_train_batch_end(self, iteration: int, batches: Sequence[Batch], meter: LossMeter, **_: Any) -> None:
        """With (model, iteration, images, targets, paths, mean losses of the epoch)."""
        assert self.trainer is not None
        batch, losses = batches[0], list(meter.read().values())
        self.target.run(
            "on_train_batch_end", self.trainer.model, iteration, batch.images, batch.targets, batch.paths, losses
        )

    def on_train_epoch_end(self, epoch: int) -> None:
        self.target.run("on_train_epoch_end", epoch=epoch)

    def on_fit_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """With (the values of the row of results.csv, epoch, best fitness, fitness)."""
        assert self.trainer is not None
        self.target.run("on_fit_epoch_end", list(metrics.values()), epoch, *self.fitness)
        if getattr(self.target, "stop_training", False):
            self.trainer.stop.requested = True

    def on_model_save(self, epoch: int) -> None:
        """With (last.pt, epoch, whether it is the last one, best fitness, fitness)."""
        assert self.trainer is not None
        is_final = epoch + 1 == self.trainer.config.epochs
        self.target.run("on_model_save", self.trainer.last, epoch, is_final, *self.fitness)

    # -- validation ------------------------------------------------------------------------------------------------

    def on_val_start(self) -> None:
        self.sink.batches = 0
        self.target.run("on_val_start")

    def on_val_batch_start(self) -> None:
        self.target.run("on_val_batch_start")

    def on_val_batch_end(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """`on_val_image_end` and `on_val_batch_end`."""
        self.sink.update(predictions, batch)

    def on_val_end(self, result: ValidationResult) -> None:
        """With the numbers of `list_val_end_values`, for tasks with boxes."""
        self.latest_fitness = result.evaluation.fitness
        if isinstance(result.evaluator, DetectionEvaluator):
            self.target.run("on_val_end", *list_val_end_values(result.evaluator))
