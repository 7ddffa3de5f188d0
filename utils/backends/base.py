"""Backend interface and the base class of backends for exported files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.backends.info import MAX_BATCH, MAX_CHANNELS, MAX_SIDE, ModelInfo
from utils.backends.outputs import check_outputs, flatten_outputs
from utils.core.device import single_threaded
from utils.core.errors import InputError
from utils.core.limits import check_limit
from utils.core.logging import LOGGER
from utils.core.types import NMSOutput
from utils.imaging.semantic_classes import SemanticClasses
from utils.tasks.registry import find_task

Visitor = Callable[[nn.Module, Any], None]  # called with each layer and its output
DEVICE_ERRORS = ("memory", "allocat", "cuda error")  # in messages of errors that are not the file's fault
MAX_REASON_LENGTH = 200  # of a runtime's message, characters
MAX_FILE_BYTES = 2**32  # of a model file
UNNAMED_CLASSES = 999  # number of class names for files without names, as in YOLOv5


class Backend(Protocol):
    """A loaded model in any runtime.

    Attributes:
        task: name of the model's task.
        stride: height and width of the input are multiples of it.
        names: class names by number.
        semantic: classes of the semantic masks; None if there are none.
        channels, device, dtype: of the input.
        fixed_hw: the only accepted input size; None if any multiple of the stride is accepted.
        has_thread_pool: the runtime has its own CPU threads, which those of torch should not compete with.
    """

    task: str
    stride: int
    names: dict[int, str]
    semantic: SemanticClasses | None
    channels: int
    device: torch.device
    dtype: torch.dtype
    fixed_hw: tuple[int, int] | None
    has_thread_pool: bool

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Visitor | None = None) -> Any:
        """Run the model on a batch (B, C, H, W), RGB if C = 3, floats in [0, 1].

        Args:
            augment: test-time augmentation.
            visualize: called with every layer and its output.

        Returns:
            Decoded boxes (B, N, 5 + num_classes), or a sequence that starts with them (segmentation: then prototypes),
            or `NMSOutput` if the file includes NMS. Semantic: logits (B, n, H, W). Joint: (detection output, logits).

        Raises:
            InputError: the input size, `augment` or `visualize` is not supported.
        """
        ...

    def warmup(self, size_hw: tuple[int, int]) -> None:
        """Run once on an empty image if the first run is slower than later ones."""
        ...


class ExportedBackend(ABC):
    """Base class of runtimes for exported files: checks inputs, splits batches, returns float32 tensors.

    A subclass opens the file, calls `super().__init__` with its metadata and implements `run`.

    Args:
        file: file name for messages.
        info: metadata of the file.
        device, dtype: of the input.
        names: class names for files without names.
        input_shape: (B, C, H, W) of the graph's input; a dynamic axis is None, not positive, or a name.
    """

    title = "exported"
    has_thread_pool = True

    def __init__(
        self,
        file: str,
        info: ModelInfo,
        *,
        device: torch.device,
        names: Mapping[int, str] | None = None,
        dtype: torch.dtype = torch.float32,
        input_shape: Sequence[int | str | None] = (None, None, None, None),
    ) -> None:
        batch, channels, height, width = (side if isinstance(side, int) and side > 0 else None for side in input_shape)
        for what, value, limit in (("images per run", batch, MAX_BATCH), ("channels", channels, MAX_CHANNELS)):
            check_limit(file, what, value or 0, limit)
        check_limit(file, "pixels of height or width", max(height or 0, width or 0), MAX_SIDE)
        self.fixed_hw = (height, width) if height and width else None
        self.fixed_batch = batch
        self.file, self.device, self.dtype = file, device, dtype
        self.info = replace(info, channels=channels or info.channels)
        self.task, self.stride, self.channels = info.task, max(info.stride, 1), self.info.channels
        self.names = dict(info.names or names or {i: f"class{i}" for i in range(UNNAMED_CLASSES)})
        self.semantic = info.semantic or find_task(info.task).default_semantic_classes()
        self._outputs_checked = False

    @abstractmethod
    def run(self, images: Tensor) -> Sequence[Tensor]:
        """Run the graph on a batch: `images` is contiguous (B, C, H, W), has `dtype` and lies on `device`."""

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Visitor | None = None) -> Any:
        """See `Backend.forward`."""
        if augment:
            raise InputError(f"{self.file}: {self.title} does not support --augment; use a .pt file")
        if visualize is not None:
            raise InputError(f"{self.file}: {self.title} does not support --visualize; use a .pt file")
        self._check_size(images)
        with single_threaded(self.has_thread_pool and self.device.type == "cpu"):
            raw_outputs = self._run_in_batches(images.to(self.device, self.dtype).contiguous())
            if not self._outputs_checked:
                check_outputs(self.file, self.info, raw_outputs)
                self._outputs_checked = True
            outputs = [output.float() for output in raw_outputs]
            if self.info.nms:
                return NMSOutput(outputs[0])
            if self.info.normalized and outputs[0].ndim == 3:
                scale = outputs[0].new_tensor([*images.shape[:1:-1]] * 2)  # w, h, w, h
                outputs[0] = torch.cat((outputs[0][..., :4] * scale, outputs[0][..., 4:]), dim=-1)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    __call__ = forward

    def warmup(self, size_hw: tuple[int, int]) -> None:
        """Run once on an empty image."""
        self._run_empty(size_hw)

    def check_names(self) -> None:
        """Use numbers as class names, with a warning, if the file has no names and another number of classes."""
        if self.info.names:
            return
        count = self._count_classes()
        if count is not None and count != len(self.names):
            LOGGER.warning(
                f"WARNING: {self.file} has no class names and {count} classes, but --data has {len(self.names)}: "
                "using class numbers; pass the data set it was trained on"
            )
            self.names = {i: f"class{i}" for i in range(count)}

    def _count_classes(self) -> int | None:
        """Number of classes in the output for an empty image; None if unknown."""
        try:
            outputs = self._run_empty((2 * self.stride, 2 * self.stride))
        except InputError:  # the file has a fixed size that its metadata does not state
            return None
        if isinstance(outputs, NMSOutput):
            return None
        return find_task(self.task).count_classes([outputs] if isinstance(outputs, Tensor) else outputs)

    def _run_empty(self, size_hw: tuple[int, int]) -> Any:
        """Output for an empty image of `size_hw`, or of the fixed size."""
        height, width = self.fixed_hw or size_hw
        return self.forward(torch.zeros(1, self.channels, height, width, dtype=self.dtype, device=self.device))

    def _check_size(self, images: Tensor) -> None:
        channels, *size_hw = images.shape[1:]
        if channels != self.channels:
            raise InputError(f"{self.file}: expected images of {self.channels} channels, got {channels}")
        if self.fixed_hw and tuple(size_hw) != self.fixed_hw:
            height, width = self.fixed_hw
            raise InputError(
                f"{self.file}: fixed image size {height}x{width}, got {size_hw[0]}x{size_hw[1]}; "
                f"use --imgsz {height} {width}, or export with --dynamic"
            )

    def _run_in_batches(self, images: Tensor) -> Sequence[Tensor]:
        """Run any number of images; a fixed batch size pads the last batch with empty images."""
        size, count = self.fixed_batch, len(images)
        if size is None or size == count:
            return self._run(images)
        batches = []
        for batch in images.split(size):
            missing = size - len(batch)
            padded = F.pad(batch, (0, 0) * 3 + (0, missing)) if missing else batch
            batches.append([output[: len(batch)] for output in self._run(padded.contiguous())])
        return [torch.cat(outputs) for outputs in zip(*batches, strict=True)]

    def _run(self, images: Tensor) -> Sequence[Tensor]:
        """`run` with errors of the runtime, except those of memory or device, as InputError in one line."""
        try:
            return flatten_outputs(self.run(images))
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # every runtime has its own exception classes
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            if any(word in str(error).lower() for word in DEVICE_ERRORS):
                raise
            reason = lines[-1][:MAX_REASON_LENGTH]
            remedy = "copy or export it again"
            if not self.fixed_hw:
                remedy = "the file may have a fixed size: use that --imgsz, or export it again"
            raise InputError(
                f"{self.file}: cannot run images of shape {tuple(images.shape)} ({reason}); {remedy}"
            ) from error


def has_nms(backend: Backend) -> bool:
    """Whether the file includes NMS, with the thresholds of its export."""
    return isinstance(backend, ExportedBackend) and backend.info.nms
