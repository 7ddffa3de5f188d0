"""Predictor: pre-processing, inference and post-processing of images."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from utils.backends.base import Backend, Visitor
from utils.core.device import Stopwatch
from utils.core.types import Batch, Prediction
from utils.ops.network_input import InputBuffer
from utils.tasks.options import PostprocessOptions
from utils.tasks.registry import find_task


class Predictor:
    """Runs one backend over images of any size.

    Args:
        backend: the loaded model, whose task does the pre-processing and post-processing.
        options: of the post-processing.
        size_hw: input size, multiples of the backend's stride; ignored if the backend has a fixed size.
        auto: pad images to the smallest rectangle within the size, if size and task allow it.
        augment: test-time augmentation.
        rgb: images of three channels are RGB, not BGR.

    Attributes:
        watches: seconds of pre-processing, inference and post-processing, over all calls.
    """

    def __init__(
        self,
        backend: Backend,
        options: PostprocessOptions,
        *,
        size_hw: tuple[int, int] = (640, 640),
        auto: bool = True,
        augment: bool = False,
        rgb: bool = False,
    ) -> None:
        self.task = find_task(backend.task)
        self.backend, self.augment, self.rgb = backend, augment, rgb
        self.size_hw = backend.fixed_hw or size_hw
        self.auto = auto and backend.fixed_hw is None and not self.task.square_input
        self.postprocess = self.task.build_postprocess(options)
        self._buffers = threading.local()  # input memory per thread
        self.watches = tuple(Stopwatch(backend.device) for _ in range(3))

    @torch.inference_mode()
    def predict(
        self, frames: Sequence[np.ndarray], *, paths: Sequence[str] = (), visualize: Visitor | None = None
    ) -> tuple[list[Prediction], tuple[int, int]]:
        """Predict images that fit one input size; returns the predictions and that size (height, width).

        Args:
            frames: (H, W, C) uint8 each, BGR if C = 3 (RGB with `rgb`).
            paths: file names of the frames.
            visualize: called with every layer and its output.
        """
        preprocess, inference, postprocess = self.watches
        with preprocess.measure():
            batch = self._build_batch(frames, paths)
            images = self._get_buffer().load(batch.images)
        with inference.measure():
            preds = self.backend.forward(images, augment=self.augment, visualize=visualize)
        with postprocess.measure():
            predictions = self.postprocess(preds, batch)
        return predictions, (int(images.shape[2]), int(images.shape[3]))

    def _get_buffer(self) -> InputBuffer:
        if not hasattr(self._buffers, "input"):
            backend = self.backend
            self._buffers.input = InputBuffer(
                backend.device, backend.dtype, self.task.pixels, has_thread_pool=backend.has_thread_pool
            )
        return self._buffers.input

    def _build_batch(self, frames: Sequence[np.ndarray], paths: Sequence[str]) -> Batch:
        fitted = [self.task.fit(frame, self.size_hw, auto=self.auto, stride=self.backend.stride) for frame in frames]
        tensors = [torch.from_numpy(frame if self.rgb else bgr_to_rgb(frame)) for frame, _ in fitted]
        images = torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]  # a view, without a copy
        images = images.permute(0, 3, 1, 2)  # (B, C, H, W), laid out channels_last
        return Batch(images, torch.zeros(0, 6), list(paths), [fit for _, fit in fitted])


def bgr_to_rgb(frame: np.ndarray) -> np.ndarray:
    """BGR to RGB; other channel counts are unchanged."""
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if frame.shape[2] == 3 else frame


def build_feature_visitor(folder: Path) -> Visitor:
    """A function that saves the feature maps of a layer as an image in `folder`."""
    from utils.plots import save_feature_maps  # imports matplotlib, which takes half a second

    def save(layer: nn.Module, output: Any) -> None:
        save_feature_maps(output, str(layer.type), int(layer.i), folder)  # type: ignore[arg-type]

    return save
