"""Calibration of INT8 exports: images of the user's training split, and the part of a graph that stays in floats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.export.base import ExportJob
from utils.export.images import CALIBRATED, calibration_images

FEW = 100  # images; with less the ranges are those of chance


def calibration_arrays(job: ExportJob, count: int = CALIBRATED) -> list[np.ndarray]:
    """Up to `count` images of the job's data, each (1, C, H, W) float32 as the network takes them.

    Raises:
        InputError: no data is named, or it has no image.
    """
    if not job.options.data:
        raise InputError("--int8: needs images to calibrate on; name the data set of the model with --data")
    arrays = [image.numpy() for image in calibration_images(job, count)]
    if not arrays:
        raise InputError(f"--data {job.options.data}: none of its training images can be read")
    if len(arrays) < FEW:
        LOGGER.warning(f"WARNING: --int8 is calibrated on {len(arrays)} images; a few hundred make it more accurate")
    LOGGER.info(f"INT8: calibrated on {len(arrays)} images of {job.options.data}")
    return arrays


class ArrayReader:
    """What onnxruntime asks for images: a mapping of the input's name at a time, None at the end.

    Args:
        arrays: images. name: of the graph's input. batch: images of one run of a graph with a fixed batch.
    """

    def __init__(self, arrays: Iterable[np.ndarray], name: str, batch: int = 1) -> None:
        self._feeds: Iterator[Mapping[str, np.ndarray]] = iter(
            [{name: np.repeat(array, batch, axis=0) if batch > 1 else array} for array in arrays]
        )

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        """The next input, or None."""
        return next(self._feeds, None)


def after_last_convolutions(outputs: Iterable[Any], inputs_of: Any, is_convolution: Any) -> tuple[list[Any], list[Any]]:
    """The nodes between a graph's last convolutions and its outputs, and those convolutions.

    There boxes are decoded: coordinates over hundreds of pixels, which eight bits cannot hold.

    Args:
        outputs: nodes that give the outputs.
        inputs_of: function from a node to the nodes whose outputs it takes.
        is_convolution: whether a node is one.
    """
    decoding, convolutions, seen = [], [], set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if is_convolution(node):
            convolutions.append(node)
        else:
            decoding.append(node)
            waiting.extend(inputs_of(node))
    return decoding, convolutions
