"""What a prediction run does differently for each task: its settings, its way through the network, its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from utils.backends.base import Backend, holds_nms
from utils.config.base import flags_of
from utils.config.classify import ClassifyPredictConfig
from utils.config.detect import DetectConfig
from utils.config.segment import SegmentPredictConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Batch, Prediction
from utils.datasets.classification import fit_center
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.semantic_classes import SemanticClasses
from utils.predict.predictor import DetectionPostprocess, Predictor, postprocess_of, semantic_masks
from utils.predict.results import ClassResult, Result
from utils.tasks.base import IMAGENET
from utils.tasks.classify import probabilities

PredictorBuilder = Callable[[DetectConfig, Backend, tuple[int, int]], Predictor]
ResultBuilder = Callable[..., Result]  # (source frame, prediction, names, input_hw, ms)
OF_BOXES = ("classes", "save_txt", "save_csv", "save_crop", "agnostic_nms")  # settings without effect on semantic masks


@dataclass(frozen=True)
class Outcome:
    """One task's part in a prediction run.

    Attributes:
        config: settings with the task's defaults.
        build_predictor: called with settings, model and input size.
        build_result: what one image's prediction becomes.
        unused: fields of the settings that play no part.
    """

    config: type[DetectConfig]
    build_predictor: PredictorBuilder
    build_result: ResultBuilder
    unused: tuple[str, ...] = ()

    def settings(self, config: DetectConfig) -> DetectConfig:
        """The settings with the task's defaults; those that play no part are named and dropped.

        Raises:
            InputError: as `BaseConfig.adapted`.
        """
        config, defaults = config.adapted(self.config), self.config()
        idle = {name: getattr(defaults, name) for name in self.unused if getattr(config, name)}
        if idle:
            LOGGER.warning(f"WARNING {flags_of(idle)}: without effect, the model gives no boxes")
        return replace(config, **idle)


def find_outcome(backend: Backend, weights: str) -> Outcome:
    """The row of a model's task; InputError where images cannot be looked at with it."""
    if backend.task not in OUTCOMES:
        raise InputError(f"{weights}: a model of task {backend.task}; detect.py takes models of {', '.join(OUTCOMES)}")
    return OUTCOMES[backend.task]


def detection_predictor(config: DetectConfig, backend: Backend, size_hw: tuple[int, int]) -> Predictor:
    """Boxes after non-maximum suppression, with the semantic mask of a network that gives one."""
    known = len(backend.names)
    if wrong := [c for c in config.classes or () if not 0 <= c < known]:
        raise InputError(f"--classes {wrong[0]}: the model has {known} classes, 0 to {known - 1}")
    if holds_nms(backend) and (idle := config.given & {"conf_thres", "iou_thres", "agnostic_nms", "max_det"}):
        LOGGER.warning(
            f"WARNING: {flags_of(idle)}: the file holds NMS by the settings of its export; "
            "only a higher --conf-thres and a lower --max-det have an effect"
        )
    postprocess = DetectionPostprocess(
        config.conf_thres,
        config.iou_thres,
        config.classes,
        config.agnostic_nms,
        config.max_det,
        whole_pixels=True,
        fine_masks=config.retina_masks,
    )
    chosen = postprocess_of(backend.task, postprocess)
    return Predictor(backend, chosen, size_hw=size_hw, augment=config.augment)


def map_predictor(config: DetectConfig, backend: Backend, size_hw: tuple[int, int]) -> Predictor:
    """Semantic masks alone."""
    return Predictor(backend, semantic_masks, size_hw=size_hw, augment=config.augment)


def detection_result(
    item: SourceFrame,
    prediction: Prediction,
    names: Mapping[int, str],
    input_hw: tuple[int, int],
    ms: tuple[float, float, float],
    *,
    semantic: SemanticClasses | None = None,
) -> Result:
    """The boxes of an image, with masks and semantic mask if there are any; `semantic`: the classes of the latter."""
    rows, pixels = prediction.boxes, prediction.semantic_mask
    boxes = np.zeros((0, 6), np.float32) if rows is None else rows.numpy()
    semantic_mask = None if pixels is None else pixels.numpy()
    return Result(item, boxes, names, input_hw, ms, prediction.bitmaps, semantic_mask, semantic)


def class_predictor(config: DetectConfig, backend: Backend, size_hw: tuple[int, int]) -> Predictor:
    """Probabilities of the middle of each image."""
    return center_predictor(backend, size_hw)


def center_predictor(backend: Backend, size_hw: tuple[int, int], *, rgb: bool = False) -> Predictor:
    """The predictor of a classifier; `rgb`: images are RGB, not BGR."""
    fitted_hw = backend.fixed_hw or size_hw
    fit = partial(fit_center, size_hw=fitted_hw)
    return Predictor(backend, class_probabilities, size_hw=fitted_hw, fit=fit, rgb=rgb, pixels=IMAGENET)


def class_probabilities(preds: Any, batch: Batch) -> list[Prediction]:
    """One prediction for each image of the batch."""
    return [Prediction(probs=row) for row in probabilities(preds).cpu()]


def class_result(
    item: SourceFrame,
    prediction: Prediction,
    names: Mapping[int, str],
    input_hw: tuple[int, int],
    ms: tuple[float, float, float],
) -> Result:
    """The classes of an image."""
    assert prediction.probs is not None
    return ClassResult.of(item, prediction.probs.numpy(), names, input_hw, ms)


OUTCOMES: dict[str, Outcome] = {
    "detect": Outcome(DetectConfig, detection_predictor, detection_result),
    "segment": Outcome(SegmentPredictConfig, detection_predictor, detection_result),
    "joint": Outcome(DetectConfig, detection_predictor, detection_result),
    "semantic": Outcome(DetectConfig, map_predictor, detection_result, OF_BOXES),
    "classify": Outcome(ClassifyPredictConfig, class_predictor, class_result),
}
