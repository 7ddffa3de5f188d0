"""What the output of an exported file has to look like, by what the file says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from utils.backends.info import ModelInfo
from utils.core.errors import InputError

BOX_COLUMNS = 5  # x, y, w, h, objectness
SUPPRESSED_COLUMNS = 6  # x1, y1, x2, y2, score, class


def tensors_of(outputs: Any) -> list[Tensor]:
    """The outputs of a graph in one list, whatever lists and tuples they come in; TypeError where it gives others."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if not isinstance(outputs, list | tuple):
        raise TypeError(f"it gives {type(outputs).__name__}, not tensors")
    return [part for output in outputs for part in tensors_of(output)]


def check_outputs(file: str, info: ModelInfo, outputs: Sequence[Tensor]) -> None:
    """Compare shapes with the metadata; further outputs than those of the task (as of old exports) may follow.

    Raises:
        InputError: the outputs are not those of such a model.
    """
    if outputs and (_is_suppressed(info, outputs) if info.nms else FITTING[info.task](info, outputs)):
        return
    said = f"task {info.task}{' with nms' if info.nms else ''}"
    if info.names and info.task in ("detect", "segment", "joint"):
        said += f" and {len(info.names)} classes"
    shapes = ", ".join(str(tuple(output.shape)) for output in outputs) or "none"
    raise InputError(f"{file}: its metadata says {said}, but the output has shape {shapes}; export it again")


def _is_suppressed(info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
    return info.task == "detect" and outputs[0].ndim == 3 and outputs[0].shape[2] == SUPPRESSED_COLUMNS


def _is_detection(info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
    """Decoded rows; of a segmenter too, which the original's exports do not tell from a detector."""
    if outputs[0].ndim != 3:
        return False
    beyond = outputs[0].shape[2] - BOX_COLUMNS - len(info.names)
    if not info.names or (_has_prototypes(outputs) and info.task == "detect"):
        return beyond > 0
    return beyond == 0


def _is_segmentation(info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
    return outputs[0].ndim == 3 and _has_prototypes(outputs) and outputs[0].shape[2] > BOX_COLUMNS + len(info.names)


def _has_prototypes(outputs: Sequence[Tensor]) -> bool:
    return len(outputs) > 1 and outputs[1].ndim == 4


def _is_joint(info: ModelInfo, outputs: Sequence[Tensor]) -> bool:
    return len(outputs) == 2 and _is_detection(info, outputs[:1]) and outputs[1].ndim == 4


FITTING: dict[str, Callable[[ModelInfo, Sequence[Tensor]], bool]] = {
    "detect": _is_detection,
    "segment": _is_segmentation,
    "joint": _is_joint,
    "semantic": lambda info, outputs: outputs[0].ndim == 4,
    "classify": lambda info, outputs: outputs[0].ndim == 2,
}
