"""Metrics of joint detection and semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.core.types import Batch, EvalResult, Prediction
from utils.metrics.detection import DetectionEvaluator
from utils.metrics.semantic import SemanticEvaluator

FITNESS_METRICS = ("metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "metrics/mIoU")


class JointEvaluator:
    """Evaluates boxes and semantic masks.

    Args:
        boxes, semantic: the evaluators of the two parts.
        weights: of mAP50, mAP50-95 and mIoU in the fitness.
    """

    def __init__(self, boxes: DetectionEvaluator, semantic: SemanticEvaluator, *, weights: Sequence[float]) -> None:
        self.boxes, self.semantic, self.weights = boxes, semantic, tuple(weights)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add a batch, for the parts that its first prediction has."""
        if predictions[0].boxes is not None:
            self.boxes.update(predictions, batch)
        if predictions[0].semantic_mask is not None:
            self.semantic.update(predictions, batch)

    def state(self) -> dict[str, np.ndarray]:
        boxes, semantic = self.boxes.state(), self.semantic.state()
        return {f"boxes/{key}": value for key, value in boxes.items()} | {
            f"semantic/{key}": value for key, value in semantic.items()
        }

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.boxes.merge([_remove_prefix(state, "boxes/") for state in states])
        self.semantic.merge([_remove_prefix(state, "semantic/") for state in states])

    def compute(self) -> EvalResult:
        """Metrics of both, with the per-class values of the boxes."""
        boxes, semantic = self.boxes.compute(), self.semantic.compute()
        metrics = boxes.metrics | semantic.metrics
        return EvalResult(
            metrics=metrics,
            fitness=sum(weight * metrics[name] for weight, name in zip(self.weights, FITNESS_METRICS, strict=True)),
            per_class=boxes.per_class,
            table=f"{boxes.table}\n\n{semantic.table}",
            details=boxes.details | semantic.details,
        )

    def plot(self, save_dir: Path) -> None:
        self.boxes.plot(save_dir)
        self.semantic.plot(save_dir)


def _remove_prefix(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
