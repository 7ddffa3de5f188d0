"""What the engine asks of a runtime that can run a model file, and what all runtimes of exported files share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.backends.info import ModelInfo
from utils.backends.outputs import BOX_COLUMNS, check_outputs, tensors_of
from utils.core.device import single_threaded
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Suppressed
from utils.imaging.semantic_classes import MAX_SEMANTIC_CLASSES, SemanticClasses

Visitor = Callable[[nn.Module, Any], None]  # called with each layer and its output
FAULTS = ("memory", "allocat", "cuda error")  # of the machine, not of the file; some runtimes tell them by text alone
MOST_REASON = 200  # letters of a runtime's message
UNNAMED_CLASSES = 999  # names given to the classes of a file that stores none, as the original does


class Backend(Protocol):
    """A loaded model, whichever runtime runs it.

    Attributes:
        task: what the model does: "detect", "segment", "classify", "semantic" or "joint".
        stride: both sides of the input are multiples of it.
        names: class names by number.
        semantic: the classes of its semantic masks; None where it gives none.
        channels: channels of the input.
        device: where the input is expected.
        dtype: float type of the input.
        fixed_hw: the only input size the file takes, or None where any multiple of the stride goes.
        own_threads: the runtime has processor threads of its own, which torch's should not compete with.
    """

    task: str
    stride: int
    names: dict[int, str]
    semantic: SemanticClasses | None
    channels: int
    device: torch.device
    dtype: torch.dtype
    fixed_hw: tuple[int, int] | None
    own_threads: bool

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Visitor | None = None) -> Any:
        """Decoded output of a batch (B, C, H, W), RGB where C = 3, floats in [0, 1].

        Args:
            augment: test-time augmentation.
            visualize: called with every layer and its output.

        Returns:
            Rows (B, N, 5 + num_classes), or a sequence that starts with them (segmentation: then prototypes), or
            `Suppressed` where the file itself does NMS. Semantic: logits (B, n, H, W). Joint: a pair of a detector's
            output and these.

        Raises:
            InputError: the runtime offers no test-time augmentation or does not show its layers, or the input has a
                size that the file does not take.
        """
        ...

    def warmup(self, size_hw: tuple[int, int]) -> None:
        """Run once on an empty image where the first run is slower than the others."""
        ...


class ExportedBackend(ABC):
    """A runtime of exported files: checks the input, deals with fixed batches, hands back float32 tensors.

    A runtime opens its file, calls `super().__init__` with what the file says of itself and implements `run`.

    Args:
        file: named in messages.
        info: metadata of the file.
        device: where the input is expected.
        names: class names for files that store none.
        dtype: float type of the input.
        fixed_hw, fixed_batch: what the graph itself demands, read from its input; None where it is free.
    """

    title = "exported"
    own_threads = True

    def __init__(
        self,
        file: str,
        info: ModelInfo,
        *,
        device: torch.device,
        names: Mapping[int, str] | None = None,
        dtype: torch.dtype = torch.float32,
        fixed_hw: tuple[int, int] | None = None,
        fixed_batch: int | None = None,
    ) -> None:
        self.file, self.info, self.device, self.dtype = file, info, device, dtype
        self.task, self.stride, self.channels = info.task, max(info.stride, 1), info.channels
        self.names = dict(info.names or names or {i: f"class{i}" for i in range(UNNAMED_CLASSES)})
        self.semantic = info.semantic
        if self.semantic is None and info.task in ("semantic", "joint"):
            self.semantic = SemanticClasses.numbered(MAX_SEMANTIC_CLASSES)
        self.fixed_hw, self.fixed_batch = fixed_hw, fixed_batch
        self._fits = False  # until an output has been looked at

    @abstractmethod
    def run(self, images: Tensor) -> Sequence[Tensor]:
        """Outputs of the graph for one batch it takes; `images` is contiguous (B, C, H, W) of `dtype` on `device`."""

    def forward(self, images: Tensor, *, augment: bool = False, visualize: Visitor | None = None) -> Any:
        """As `Backend.forward`."""
        if augment:
            raise InputError(f"{self.file}: --augment needs a .pt file, {self.title} runs one size; leave it out")
        if visualize is not None:
            raise InputError(f"{self.file}: --visualize needs a .pt file, {self.title} does not show its layers")
        self._check_size(images)
        with single_threaded(self.own_threads and self.device.type == "cpu"):
            found = self._in_batches(images.to(self.device, self.dtype).contiguous())
            if not self._fits:
                check_outputs(self.file, self.info, found)
                self._fits = True
            outputs = [output.float() for output in found]
            if self.info.nms:
                return Suppressed(outputs[0])
            if self.info.normalized and outputs[0].ndim == 3:
                scale = outputs[0].new_tensor([*images.shape[:1:-1]] * 2)  # w, h, w, h
                outputs[0] = torch.cat((outputs[0][..., :4] * scale, outputs[0][..., 4:]), dim=-1)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    __call__ = forward

    def warmup(self, size_hw: tuple[int, int]) -> None:
        """One run on an empty image."""
        self._run_empty(size_hw)

    def doubt_names(self) -> None:
        """Number the classes, with a warning, where the file stores no names and those lent are not as many."""
        if self.info.names:
            return
        count = self._class_count()
        if count is not None and count != len(self.names):
            LOGGER.warning(
                f"WARNING: {self.file} stores no class names and has {count} classes, --data names {len(self.names)}: "
                "its classes are numbered; give the data set it was trained on"
            )
            self.names = {i: f"class{i}" for i in range(count)}

    def _class_count(self) -> int | None:
        """Classes that the output for an empty image has scores for; None where it does not tell."""
        try:
            outputs = self._run_empty((2 * self.stride, 2 * self.stride))
        except InputError:  # of a fixed size that the file does not tell
            return None
        if isinstance(outputs, Suppressed) or self.task not in ("detect", "segment", "classify"):
            return None
        first, *others = [outputs] if isinstance(outputs, Tensor) else outputs
        if self.task == "classify":
            return int(first.shape[1])
        coefficients = others[0].shape[1] if others and others[0].ndim == 4 else 0  # one for each prototype
        return int(first.shape[2]) - BOX_COLUMNS - coefficients

    def _run_empty(self, size_hw: tuple[int, int]) -> Any:
        """Output for one empty image of the size, or of the only size that the file takes."""
        height, width = self.fixed_hw or size_hw
        return self.forward(torch.zeros(1, self.channels, height, width, dtype=self.dtype, device=self.device))

    def _check_size(self, images: Tensor) -> None:
        channels, *size_hw = images.shape[1:]
        if channels != self.channels:
            raise InputError(f"{self.file}: takes {self.channels} channels, the images have {channels}")
        if self.fixed_hw and tuple(size_hw) != self.fixed_hw:
            height, width = self.fixed_hw
            raise InputError(
                f"{self.file}: takes {height}x{width} images only, not {size_hw[0]}x{size_hw[1]}; "
                f"give --imgsz {height} {width}, or export with --dynamic"
            )

    def _in_batches(self, images: Tensor) -> Sequence[Tensor]:
        """Outputs for any number of images; the last batch of a fixed size is filled up with empty ones."""
        size, count = self.fixed_batch, len(images)
        if size is None or size == count:
            return self._run(images)
        parts = []
        for part in images.split(size):
            missing = size - len(part)
            filled = F.pad(part, (0, 0) * 3 + (0, missing)) if missing else part
            parts.append([output[: len(part)] for output in self._run(filled.contiguous())])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def _run(self, images: Tensor) -> Sequence[Tensor]:
        """As `run`; what a runtime has against a batch becomes one line, unless memory is short."""
        try:
            return tensors_of(self.run(images))
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each runtime has classes of its own
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            if any(word in str(error).lower() for word in FAULTS):
                raise
            known = "copy or export it again"  # the size was checked
            remedy = known if self.fixed_hw else "it may take one size only: give that --imgsz, or export it again"
            raise InputError(
                f"{self.file}: cannot run images of shape {tuple(images.shape)} ({lines[-1][:MOST_REASON]}); {remedy}"
            ) from error


def holds_nms(backend: Backend) -> bool:
    """Whether the file does NMS itself, by the thresholds of its export."""
    return isinstance(backend, ExportedBackend) and backend.info.nms
