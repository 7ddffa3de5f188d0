"""One pass over a split: forward, post-processing, metrics and whatever else wants to see the predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from utils.core.device import Stopwatch
from utils.core.distributed import all_gather_arrays, all_reduce_sum, get_world_size, is_main_process
from utils.core.logging import get_tqdm_disable
from utils.core.types import EvalResult
from utils.datasets.step_loader import StepLoader
from utils.losses.meter import LossMeter
from utils.ops.network_input import InputBuffer
from utils.tasks.base import Evaluator, Sink, Task


@dataclass
class ValidationResult:
    """What a pass gave.

    Attributes:
        evaluation: metrics of the split.
        evaluator: what computed them, for plots.
        losses: mean of each loss item by name; zeros where no loss is bound to the task or the model gives no raw maps.
        speed_ms: milliseconds an image of (preparing, forward, post-processing).
        images: images seen, by all processes.
        seconds: wall time from the first batch to the last metric, loading included.
    """

    evaluation: EvalResult
    evaluator: Evaluator
    losses: dict[str, float]
    speed_ms: tuple[float, float, float]
    images: int
    seconds: float

    @property
    def share_outside_forward(self) -> float:
        """Part of the wall time that was not spent in the network, 0 to 1."""
        return 1 - self.speed_ms[1] * self.images / 1000 / self.seconds


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
) -> ValidationResult:
    """Run `model` over `loader` and measure it.

    Several processes measure a part of the batches each; all of them get the result of the whole split.

    Args:
        model: a network or a backend: (B, C, H, W) floats in [0, 1], normalized if the task's networks want that,
            -> what the task post-processes.
        dtype: float type of the input, that of the model's weights.
        has_thread_pool: as `Backend.has_thread_pool`.
        autocast: dtype of mixed precision over FP32 weights, or None.
        augment: test-time augmentation.
        sinks: further readers of the predictions, such as text files and plots.
        progress: heading of the progress bar on a terminal; None shows none.
        before_batch: called before each batch goes in.
    """
    if isinstance(model, nn.Module):
        model.eval()
    started = perf_counter()
    evaluator = task.build_evaluator()
    watches = [Stopwatch(device) for _ in range(3)]
    precision: Any = torch.autocast(device.type, dtype=autocast) if autocast else nullcontext()
    meter = LossMeter(task.loss_names)
    buffer = InputBuffer(device, dtype, task.pixels, has_thread_pool=has_thread_pool)
    images_seen = 0
    hidden = get_tqdm_disable(progress is not None and is_main_process())
    for batches in tqdm(loader, desc=progress, disable=hidden, total=len(loader), dynamic_ncols=True):
        for batch in batches:
            if before_batch is not None:
                before_batch()
            with watches[0].measure():
                on_device = batch.to(device, non_blocking=True)
                images = buffer.load(on_device.images)
            with watches[1].measure(), precision:
                preds = model(images, augment=True) if augment else model(images)
            measured = None if augment else task.losses(preds, on_device)
            with watches[2].measure():
                predictions = task.postprocess(preds, on_device)
            if measured is not None:
                meter.add(measured.items, [])
            evaluator.update(predictions, batch)
            for sink in sinks:
                sink.update(predictions, batch)
            images_seen += len(batch)
    for sink in sinks:
        sink.close()
    prepare, forward, post = (1000 * w.seconds / max(images_seen, 1) for w in watches)
    speed = (prepare, forward, post)
    if get_world_size() > 1:
        evaluator.merge(all_gather_arrays(evaluator.state()))
        images_seen = int(all_reduce_sum(torch.tensor(images_seen)))
    losses, evaluation = meter.gather_means(), evaluator.compute()
    return ValidationResult(evaluation, evaluator, losses, speed, images_seen, perf_counter() - started)
