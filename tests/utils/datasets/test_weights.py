from __future__ import annotations

import numpy as np
import pytest

from utils.datasets.weights import median_frequency_weights, pixel_image_weights


def test_median_frequency_by_hand() -> None:
    pixels = np.array([[90, 10, 0, 0], [50, 0, 50, 0]])
    # shares of the pictures that show them: 140/200, 10/100, 50/100; the median is 0.5
    np.testing.assert_allclose(median_frequency_weights(pixels), [0.5 / 0.7, 5.0, 1.0, 1.0])


def test_nothing_labelled() -> None:
    assert median_frequency_weights(np.zeros((2, 3), np.int64)).tolist() == [1, 1, 1]


def test_weights_of_pictures() -> None:
    pixels = np.array([[10, 30], [0, 0], [5, 0]])
    assert pixel_image_weights(pixels, np.array([1.0, 3.0])).tolist() == [pytest.approx(2.5), 0, 1]
