"""Validation of a model on one split of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from utils.core.device import Stopwatch
from utils.core.distributed import all_gather_arrays, all_reduce_sum, get_world_size, is_main_process
from utils.core.logging import get_tqdm_disable
from utils.core.types import Batch, EvalResult, Prediction
from utils.datasets.step_loader import StepLoader
from utils.losses.meter import LossMeter
from utils.ops.network_input import InputBuffer
from utils.tasks.base import Evaluator, Sink, Task


@dataclass
class ValidationResult:
    """Result of a validation.

    Attributes:
        evaluation: metrics of the split.
        evaluator: the evaluator that computed them, for plots.
        losses: mean of each loss item by name; zeros if the task has no loss or the model returns no raw output.
        speed_ms: milliseconds per image of (pre-processing, inference, post-processing).
        images: number of images, over all ranks.
        seconds: wall time from the first batch to the last metric, including data loading.
    """

    evaluation: EvalResult
    evaluator: Evaluator
    losses: dict[str, float]
    speed_ms: tuple[float, float, float]
    images: int
    seconds: float

    @property
    def share_outside_forward(self) -> float:
        """Fraction of the wall time not spent in the network."""
        return 1 - self.speed_ms[1] * self.images / 1000 / self.seconds


class BatchPredictor(Protocol):
    """Predicts a batch in pixels of its images."""

    @property
    def watches(self) -> Sequence[Stopwatch]:
        """Seconds of pre-processing, inference and post-processing."""
        ...

    def __call__(self, batch: Batch) -> list[Prediction]: ...


@torch.inference_mode()
def validate(
    task: Task,
    model: Callable[..., Any],
    loader: StepLoader,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    has_thread_pool: bool = False,
    autocast: torch.dtype | None = None,
    augment: bool = False,
    sinks: Sequence[Sink] = (),
    progress: str | None = None,
    before_batch: Callable[[], object] | None = None,
    predictor: BatchPredictor | None = None,
) -> ValidationResult:
    """Compute losses and metrics of `model` on the batches of `loader`.

    Each rank processes a shard of the batches; all of them return the result of the whole split.

    Args:
        model: a network or `Backend.forward`: maps (B, C, H, W) floats in [0, 1], or normalized if the task requires
            it, to the input of `Task.postprocess`.
        dtype: of the network input and the weights.
        has_thread_pool: as `Backend.has_thread_pool`.
        autocast: dtype of mixed precision over FP32 weights, or None.
        augment: test-time augmentation.
        sinks: receive the predictions, to write files or plots.
        progress: title of the progress bar on a terminal; None for no bar.
        before_batch: called before each batch.
        predictor: replaces model and post-processing; there are no losses then.
    """
    if isinstance(model, nn.Module):
        model.eval()
    started = perf_counter()
    evaluator = task.build_evaluator()
    watches: Sequence[Stopwatch] = [Stopwatch(device) for _ in range(3)] if predictor is None else predictor.watches
    precision: Any = torch.autocast(device.type, dtype=autocast) if autocast else nullcontext()
    meter = LossMeter(task.loss_names)
    buffer = InputBuffer(device, dtype, task.pixels, has_thread_pool=has_thread_pool)
    num_images = 0
    hidden = get_tqdm_disable(progress is not None and is_main_process())
    for batches in tqdm(loader, desc=progress, disable=hidden, total=len(loader), dynamic_ncols=True):
        for batch in batches:
            if before_batch is not None:
                before_batch()
            if predictor is not None:
                predictions = predictor(batch)
            else:
                with watches[0].measure():
                    on_device = batch.to(device, non_blocking=True)
                    images = buffer.load(on_device.images)
                with watches[1].measure(), precision:
                    preds = model(images, augment=True) if augment else model(images)
                losses = None if augment else task.losses(preds, on_device)
                with watches[2].measure():
                    predictions = task.postprocess(preds, on_device)
                if losses is not None:
                    meter.add(losses.items, [])
            evaluator.update(predictions, batch)
            for sink in sinks:
                sink.update(predictions, batch)
            num_images += len(batch)
    for sink in sinks:
        sink.close()
    preprocess, inference, postprocess = (1000 * watch.seconds / max(num_images, 1) for watch in watches)
    if get_world_size() > 1:
        evaluator.merge(all_gather_arrays(evaluator.state()))
        num_images = int(all_reduce_sum(torch.tensor(num_images)))
    mean_losses, evaluation = meter.gather_means(), evaluator.compute()
    speed_ms = (preprocess, inference, postprocess)
    return ValidationResult(evaluation, evaluator, mean_losses, speed_ms, num_images, perf_counter() - started)
