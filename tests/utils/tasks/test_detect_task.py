from __future__ import annotations

import numpy as np
import pytest
import torch

from utils.core.types import Batch
from utils.imaging.letterbox import letterbox
from utils.tasks.detect import DetectionTask
from utils.tasks.options import PREDICT_DEFAULTS


@pytest.mark.parametrize(
    ("size_hw", "input_hw", "gain", "pad_wh"),
    [
        pytest.param((100, 333), (192, 640), 1.92, (0.32, 0.0), id="a rounded side"),
        pytest.param((427, 640), (448, 640), 1.0, (0.0, 10.5), id="odd padding"),
        pytest.param((480, 640), (480, 640), 1.0, (0.0, 0.0), id="no padding"),
    ],
)
def test_boxes_are_mapped_back_by_nominal_ratio_and_padding(
    size_hw: tuple[int, int], input_hw: tuple[int, int], gain: float, pad_wh: tuple[float, float]
) -> None:
    """The ratio is the smaller of the two sides', the padding half of the difference, both not rounded."""
    image, fit = letterbox(np.zeros((*size_hw, 3), np.uint8), 640, auto=True)
    assert image.shape[:2] == input_hw
    rows = torch.tensor([[[120.0, 90, 60, 40, 0.9, 1.0]]])  # 90, 70 to 150, 110 in pixels of the input
    batch = Batch(torch.zeros(1, 3, *input_hw, dtype=torch.uint8), torch.zeros(0, 6), ["a.jpg"], [fit])
    (prediction,) = DetectionTask.build_postprocess(PREDICT_DEFAULTS)(rows, batch)
    expected = (np.array([90, 70, 150, 110]) - [*pad_wh, *pad_wh]) / gain
    assert prediction.boxes is not None
    np.testing.assert_allclose(prediction.boxes[0, :4], expected.clip(0, [*size_hw[::-1], *size_hw[::-1]]), atol=1e-4)
