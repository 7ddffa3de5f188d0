"""From images to predictions: fit into the input, network, post-processing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.backends.base import Backend, Visitor
from utils.core.device import Stopwatch
from utils.core.types import Batch, Letterbox, Prediction
from utils.imaging.letterbox import letterbox
from utils.ops.boxes import undo_letterbox
from utils.ops.nms import non_max_suppression
from utils.ops.prototypes import prototypes_of, split_masks
from utils.ops.semantic_masks import original_semantic_mask
from utils.tasks.base import InputBuffer, PixelStatistics

Fit = Callable[[np.ndarray], tuple[np.ndarray, Letterbox]]  # (H, W, C) -> (h, w, C) of the network input
Postprocess = Callable[[Any, Batch], list[Prediction]]  # predictions in pixels of the original images


@dataclass(frozen=True)
class DetectionPostprocess:
    """Boxes after non-maximum suppression, and masks where the network gives them, in pixels of the original images.

    Attributes:
        conf_thres, iou_thres, classes, agnostic, max_det, multi_label: as in `non_max_suppression`.
        whole_pixels: round the corners.
        fine_masks: enlarge masks to the original image before they are thresholded; else to the network input.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.45
    classes: Sequence[int] | None = None
    agnostic: bool = False
    max_det: int = 1000
    whole_pixels: bool = False
    multi_label: bool = False
    fine_masks: bool = False

    def __call__(self, preds: Any, batch: Batch) -> list[Prediction]:
        """One prediction per image of the batch, from the decoded output of a detection or segmentation head."""
        prototypes = prototypes_of(preds)
        detections = non_max_suppression(
            preds,
            self.conf_thres,
            self.iou_thres,
            classes=self.classes,
            agnostic=self.agnostic,
            multi_label=self.multi_label,
            max_det=self.max_det,
            nm=0 if prototypes is None else prototypes.shape[1],
        )
        input_hw = (batch.images.shape[2], batch.images.shape[3])
        return [
            self._to_original(rows, fit, None if prototypes is None else prototypes[number], input_hw)
            for number, (rows, fit) in enumerate(zip(detections, batch.letterboxes, strict=True))
        ]

    def _to_original(
        self, rows: Tensor, fit: Letterbox | None, prototypes: Tensor | None, input_hw: tuple[int, int]
    ) -> Prediction:
        """What NMS left of one image in its own pixels."""
        assert fit is not None, "images to predict are fitted one by one"
        rows, bitmaps = rows.cpu(), None
        if prototypes is not None:
            rows, masks = split_masks(rows, prototypes, input_hw)
            bitmaps = masks.in_original(fit) if self.fine_masks else masks.in_input().in_original(fit)
        boxes = undo_letterbox(rows, fit)
        if self.whole_pixels:
            boxes[:, :4] = boxes[:, :4].round()
        return Prediction(boxes=boxes, bitmaps=bitmaps)


def semantic_masks(preds: Any, batch: Batch) -> list[Prediction]:
    """One prediction per image of the batch: the class of each of its own pixels, from logits (B, n, H, W)."""
    logits = preds if isinstance(preds, Tensor) else preds[0]
    fits = [fit for fit in batch.letterboxes if fit is not None]
    found = (original_semantic_mask(scores, fit).cpu() for scores, fit in zip(logits, fits, strict=True))
    return [Prediction(semantic_mask=semantic_mask) for semantic_mask in found]


@dataclass(frozen=True)
class JointPostprocess:
    """Boxes as `DetectionPostprocess`, and the class of each pixel, in pixels of the original images."""

    boxes: DetectionPostprocess

    def __call__(self, preds: Any, batch: Batch) -> list[Prediction]:
        """One prediction per image of the batch, from (decoded output of the detector, logits)."""
        detection, logits = preds
        both = zip(self.boxes(detection, batch), semantic_masks(logits, batch), strict=True)
        return [replace(boxes, semantic_mask=classes.semantic_mask) for boxes, classes in both]


def postprocess_of(task: str, boxes: DetectionPostprocess) -> Postprocess:
    """What makes predictions of the output of a task's network, with `boxes` for what it detects."""
    if task == "semantic":
        return semantic_masks
    return JointPostprocess(boxes) if task == "joint" else boxes


class Predictor:
    """Runs one backend over images of any size.

    Args:
        backend: the loaded model.
        postprocess: what makes predictions of its output.
        size_hw: wanted input size, multiples of the backend's stride; images are padded to the smallest rectangle
            within it unless the backend takes one size only.
        augment: test-time augmentation.
        fit: another way to bring an image to the network input.
        rgb: images of three channels are RGB, not BGR.
        pixels: how the network wants its input normalized; None leaves it in 0-1.

    Attributes:
        watches: seconds spent preparing, in the network, and post-processing, over all calls.
    """

    def __init__(
        self,
        backend: Backend,
        postprocess: Postprocess,
        *,
        size_hw: tuple[int, int] = (640, 640),
        augment: bool = False,
        fit: Fit | None = None,
        rgb: bool = False,
        pixels: PixelStatistics | None = None,
    ) -> None:
        self.backend, self.postprocess, self.augment, self.rgb = backend, postprocess, augment, rgb
        self.size_hw, self.pixels = backend.fixed_hw or size_hw, pixels
        self.one_size = backend.fixed_hw is not None or fit is not None  # whatever the images' own
        self.fit = fit or self._letterbox
        self._own = threading.local()  # a thread has its own input memory
        self.watches = tuple(Stopwatch(backend.device) for _ in range(3))

    @torch.inference_mode()
    def predict(
        self, frames: Sequence[np.ndarray], *, paths: Sequence[str] = (), visualize: Visitor | None = None
    ) -> tuple[list[Prediction], tuple[int, int]]:
        """Predictions for images that fit into one input size, and that size (height, width).

        Args:
            frames: (H, W, C) uint8 each, BGR where C = 3 (RGB with `rgb`).
            paths: their names.
            visualize: called with every layer and its output.
        """
        prepare, network, post = self.watches
        with prepare.running():
            batch = self._batch(frames, paths)
            images = self._input_buffer().load(batch.images)
        with network.running():
            preds = self.backend.forward(images, augment=self.augment, visualize=visualize)
        with post.running():
            predictions = self.postprocess(preds, batch)
        return predictions, (int(images.shape[2]), int(images.shape[3]))

    def _input_buffer(self) -> InputBuffer:
        if not hasattr(self._own, "buffer"):
            self._own.buffer = InputBuffer(
                self.backend.device, self.backend.dtype, self.pixels, own_threads=self.backend.own_threads
            )
        return self._own.buffer

    def _batch(self, frames: Sequence[np.ndarray], paths: Sequence[str]) -> Batch:
        fitted = [self.fit(frame) for frame in frames]
        tensors = [torch.from_numpy(frame if self.rgb else to_rgb(frame)) for frame, _ in fitted]
        images = torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]
        images = images.permute(0, 3, 1, 2)  # (B, C, H, W), laid out channels_last
        return Batch(images, torch.zeros(0, 6), list(paths), [fit for _, fit in fitted])

    def _letterbox(self, frame: np.ndarray) -> tuple[np.ndarray, Letterbox]:
        return letterbox(frame, self.size_hw, auto=self.backend.fixed_hw is None, stride=self.backend.stride)


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """Three channels from BGR to RGB; other channel counts as they are."""
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if frame.shape[2] == 3 else frame
