"""The loss of classifiers: cross-entropy with smoothed targets and weights for rare classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.core.distributed import shared_sum
from utils.losses.bce import at_least_float32


def classification_loss(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy (Szegedy et al. 2016, arXiv:1512.00567, sec. 7 for the smoothing).

    Args:
        logits: (B, num_classes).
        labels: (B,) int64.
        smoothing: share of each target that is spread over all classes.
        class_weights: (num_classes,) factor of each class; the mean is the weighted one.

    Returns:
        A scalar; of a batch that several processes share, this one's part of it.
    """
    logits = at_least_float32(logits)
    factors = None if class_weights is None else class_weights.to(logits)
    total = F.cross_entropy(logits, labels, weight=factors, label_smoothing=smoothing, reduction="sum")
    weights = logits.new_ones(()).expand(len(labels)) if factors is None else factors[labels]
    return total / shared_sum(weights.sum())


def balanced_weights(counts: np.ndarray) -> Tensor:
    """(num_classes,) weights by which every class that has images costs the same in sum; their mean per image is 1.

    Args:
        counts: (num_classes,) images of each class; a class without any gets weight 0.
    """
    present = counts > 0
    weights = np.where(present, counts.sum() / (max(int(present.sum()), 1) * np.maximum(counts, 1)), 0.0)
    return torch.from_numpy(weights).float()
