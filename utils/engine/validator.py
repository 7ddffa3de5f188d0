"""One pass over a split: forward, post-processing, metrics and whatever else wants to see the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.device import Stopwatch
from utils.tasks.base import Evaluator, StepLoader, Task, images_to_device
from utils.types import Batch, EvalResult, Prediction


class Sink(Protocol):
    """Receives every batch with its predictions, in pixels of the network input."""

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None: ...
    def close(self) -> None: ...


@dataclass
class ValidationResult:
    """What a pass gave.

    Attributes:
        evaluation: metrics of the split.
        evaluator: what computed them, for plots.
        losses: mean of each loss item by name; empty where the model gives no raw output.
        speed_ms: milliseconds a picture of (preparing, forward, post-processing).
        images: pictures seen.
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
    model: nn.Module,
    loader: StepLoader,
    *,
    device: torch.device,
    half: bool = False,
    autocast: torch.dtype | None = None,
    augment: bool = False,
    sinks: Sequence[Sink] = (),
    progress: str | None = None,
) -> ValidationResult:
    """Run `model` over `loader` and measure it.

    Args:
        half: the model's weights are FP16, feed it FP16.
        autocast: dtype of mixed precision over FP32 weights, or None.
        augment: test-time augmentation.
        sinks: further readers of the predictions, such as text files and plots.
        progress: heading of the progress bar; None shows none.
    """
    model.eval()
    started = perf_counter()
    evaluator = task.build_evaluator()
    watches = [Stopwatch(device) for _ in range(3)]
    precision: Any = torch.autocast(device.type, dtype=autocast) if autocast else nullcontext()
    loss_sum: Tensor | None = None
    images_seen, batches_seen = 0, 0
    for batches in tqdm(loader, desc=progress, disable=progress is None, total=len(loader), dynamic_ncols=True):
        for batch in batches:
            with watches[0].running():
                images = images_to_device(batch.images, device, half=half)
                on_device = batch.to(device, non_blocking=True)
            with watches[1].running(), precision:
                preds = model(images, augment=True) if augment else model(images)
            measured = None if augment else task.losses(preds, on_device)
            with watches[2].running():
                predictions = task.postprocess(preds, on_device)
            if measured is not None:
                stacked = torch.stack([value.float() for value in measured.items.values()])
                loss_sum = stacked if loss_sum is None else loss_sum + stacked
            evaluator.update(predictions, batch)
            for sink in sinks:
                sink.update(predictions, batch)
            images_seen, batches_seen = images_seen + len(batch), batches_seen + 1
    for sink in sinks:
        sink.close()
    means = [] if loss_sum is None else (loss_sum / batches_seen).tolist()
    prepare, forward, post = (1000 * w.seconds / max(images_seen, 1) for w in watches)
    losses = dict(zip(task.loss_names, means, strict=False))
    evaluation = evaluator.compute()
    speed = (prepare, forward, post)
    return ValidationResult(evaluation, evaluator, losses, speed, images_seen, perf_counter() - started)
