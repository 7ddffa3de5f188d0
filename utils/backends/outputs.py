"""Check of an exported file's outputs against its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from utils.backends.info import ModelInfo
from utils.core.errors import InputError
from utils.tasks.registry import find_task

RAW_MAP_AXES = (4, 5)  # (B, anchors * columns, H, W), or (B, anchors, H, W, columns)


def flatten_outputs(outputs: Any) -> list[Tensor]:
    """The outputs of a graph in one list, however they are nested; TypeError if it gives anything but tensors."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if not isinstance(outputs, list | tuple):
        raise TypeError(f"it gives {type(outputs).__name__}, not tensors")
    return [part for output in outputs for part in flatten_outputs(output)]


def check_outputs(file: str, info: ModelInfo, outputs: Sequence[Tensor]) -> None:
    """Compare shapes with the metadata; more outputs than the task has (as in old exports) may follow.

    Raises:
        InputError: the outputs are not those of such a model.
    """
    if outputs and find_task(info.task).matches_outputs(info, outputs):
        return
    expected = f"task {info.task}{' with nms' if info.nms else ''}"
    if info.names:
        expected += f" and {len(info.names)} classes"
    shapes = ", ".join(str(tuple(output.shape)) for output in outputs) or "none"
    if len(outputs) > 1 and all(output.ndim in RAW_MAP_AXES for output in outputs):
        raise InputError(
            f"{file}: its outputs are raw feature maps {shapes}, without decoded boxes; export the checkpoint again "
            "with export.py (of YOLOv5: without --train)"
        )
    raise InputError(f"{file}: its metadata says {expected}, but the output has shape {shapes}; export it again")
