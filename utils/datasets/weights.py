"""Weights by frequency: of pictures for `--image-weights`, and of classes in the loss of class maps."""

from __future__ import annotations

import numpy as np

from utils.datasets.index import ImageIndex


def class_weights(index: ImageIndex, num_classes: int) -> np.ndarray:
    """(num_classes,) inverse frequency of each class among the labels, summing to 1; an absent class counts as one."""
    counts = np.bincount(index.classes, minlength=num_classes).astype(np.float64)
    inverse = 1 / np.maximum(counts, 1)
    return inverse / inverse.sum()


def image_weights(index: ImageIndex, weights: np.ndarray) -> np.ndarray:
    """(N,) sum of `weights` (num_classes,) over each picture's labels; 0 for a picture without any."""
    running = np.concatenate([np.zeros(1), np.cumsum(weights[index.classes])])
    return np.maximum(running[index.offsets[1:]] - running[index.offsets[:-1]], 0)


def median_frequency_weights(pixels: np.ndarray) -> np.ndarray:
    """(num_classes,) weights for the loss of class maps by which rare classes count more (arXiv:1411.4734, sec. 4.3).

    A class's frequency is its share of the labelled pixels of those pictures that show it; its weight is the median of
    all frequencies over its own. A class without any pixel gets weight 1.

    Args:
        pixels: (N, num_classes) pixels of each class in each picture, `ImageIndex.pixels`.
    """
    own = pixels.sum(axis=0).astype(np.float64)
    around = ((pixels > 0) * pixels.sum(axis=1, keepdims=True)).sum(axis=0)
    present = own > 0
    frequency = own / np.maximum(around, 1)
    weights = np.ones(pixels.shape[1])
    weights[present] = np.median(frequency[present]) / frequency[present] if present.any() else 1
    return weights


def pixel_image_weights(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) mean of `weights` (num_classes,) over the labelled pixels of each picture; 0 without any."""
    return pixels @ weights / np.maximum(pixels.sum(axis=1), 1)
