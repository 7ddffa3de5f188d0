"""INT8 calibration: training images, and the part of a graph that is not quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.export.base import ExportJob
from utils.export.images import MAX_CALIBRATION_IMAGES, load_calibration_images

MIN_IMAGES = 100  # fewer give unreliable ranges


def load_calibration_arrays(job: ExportJob, count: int = MAX_CALIBRATION_IMAGES) -> list[np.ndarray]:
    """Load up to `count` training images of the job's data, each (1, C, H, W) float32 network input.

    Raises:
        InputError: no data given, or none of its images can be read.
    """
    if not job.options.data:
        raise InputError("--int8 needs images for calibration; give the data set of the model with --data")
    arrays = [image.numpy() for image in load_calibration_images(job, count)]
    if not arrays:
        raise InputError(f"--data {job.options.data}: none of its training images can be read")
    if len(arrays) < MIN_IMAGES:
        LOGGER.warning(f"WARNING: --int8: only {len(arrays)} calibration images; a few hundred give better accuracy")
    LOGGER.info(f"INT8: calibrating on {len(arrays)} images of {job.options.data}")
    return arrays


class CalibrationReader:
    """Calibration data reader of onnxruntime.

    Args:
        arrays: images (1, C, H, W). name: input of the graph. batch: its fixed batch size.
    """

    def __init__(self, arrays: Iterable[np.ndarray], name: str, batch: int = 1) -> None:
        self._feeds: Iterator[Mapping[str, np.ndarray]] = iter(
            [{name: np.repeat(array, batch, axis=0) if batch > 1 else array} for array in arrays]
        )

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        """The next input by name; None at the end."""
        return next(self._feeds, None)


def find_decoding_nodes(outputs: Iterable[Any], get_inputs: Any, is_convolution: Any) -> tuple[list[Any], list[Any]]:
    """Find the nodes between the last convolutions of a graph and its outputs, and those convolutions.

    These nodes decode boxes: coordinates of hundreds of pixels, too large for eight bits.

    Args:
        outputs: output nodes.
        get_inputs: function from a node to its input nodes.
        is_convolution: function from a node to a bool.
    """
    decoding, convolutions, visited = [], [], set()
    pending = list(outputs)
    while pending:
        node = pending.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if is_convolution(node):
            convolutions.append(node)
        else:
            decoding.append(node)
            pending.extend(get_inputs(node))
    return decoding, convolutions
