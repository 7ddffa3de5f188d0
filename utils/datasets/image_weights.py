"""Sampling weights of `--image-weights`: images of rare and weak classes are drawn more often."""

from __future__ import annotations

import numpy as np

from utils.datasets.index.image_index import ImageIndex


def class_weights(index: ImageIndex, num_classes: int) -> np.ndarray:
    """(num_classes,) inverse frequency of each class among the labels, summing to 1; an absent class counts as 1."""
    return inverse_frequency(index.classes, num_classes)


def inverse_frequency(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """As `class_weights`, for the classes (n,) of all labels."""
    counts = np.bincount(classes, minlength=num_classes).astype(np.float64)
    inverse = 1 / np.maximum(counts, 1)
    return inverse / inverse.sum()


def image_weights(index: ImageIndex, weights: np.ndarray) -> np.ndarray:
    """(N,) sum of `weights` (num_classes,) over each image's labels; 0 for an image without labels."""
    cumulative = np.concatenate([np.zeros(1), np.cumsum(weights[index.classes])])
    return np.maximum(cumulative[index.offsets[1:]] - cumulative[index.offsets[:-1]], 0)
