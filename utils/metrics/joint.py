"""Metrics of boxes and semantic masks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.core.types import Batch, EvalResult, Prediction
from utils.metrics.detection import DetectionEvaluator
from utils.metrics.semantic import SemanticEvaluator

WEIGHED = ("metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "metrics/mIoU")


class JointEvaluator:
    """Hands each prediction to the evaluators of what it holds.

    Args:
        boxes, maps: measure the two parts.
        weights: of mAP50, mAP50-95 and mIoU in the fitness.
    """

    def __init__(self, boxes: DetectionEvaluator, maps: SemanticEvaluator, *, weights: Sequence[float]) -> None:
        self.boxes, self.maps, self.weights = boxes, maps, tuple(weights)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Take in a batch; a part that its first prediction lacks is not measured on it."""
        if predictions[0].boxes is not None:
            self.boxes.update(predictions, batch)
        if predictions[0].semantic_mask is not None:
            self.maps.update(predictions, batch)

    def state(self) -> dict[str, np.ndarray]:
        """What both have taken in."""
        boxes, maps = self.boxes.state(), self.maps.state()
        return {f"boxes/{key}": value for key, value in boxes.items()} | {
            f"maps/{key}": value for key, value in maps.items()
        }

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Have taken in what the states hold."""
        self.boxes.merge([_part(state, "boxes/") for state in states])
        self.maps.merge([_part(state, "maps/") for state in states])

    def compute(self) -> EvalResult:
        """Metrics of both, with the per-class numbers of the boxes."""
        boxes, maps = self.boxes.compute(), self.maps.compute()
        metrics = boxes.metrics | maps.metrics
        return EvalResult(
            metrics=metrics,
            fitness=sum(weight * metrics[name] for weight, name in zip(self.weights, WEIGHED, strict=True)),
            per_class=boxes.per_class,
            table=f"{boxes.table}\n\n{maps.table}",
            details=boxes.details | maps.details,
        )

    def plot(self, save_dir: Path) -> None:
        """The images of both."""
        self.boxes.plot(save_dir)
        self.maps.plot(save_dir)


def _part(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
