"""Classification loss: cross-entropy with label smoothing and class weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.losses.bce import upcast_half
from utils.losses.result import Reduce, keep_local


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    reduce: Reduce = keep_local,
) -> Tensor:
    """Mean cross-entropy (Szegedy et al. 2016, arXiv:1512.00567, sec. 7 for the smoothing).

    Args:
        logits: (B, num_classes).
        labels: (B,) int64.
        smoothing: fraction of each target that is spread over all classes.
        class_weights: (num_classes,) weights of a weighted mean.
        reduce: adds counts over the ranks that share the batch.

    Returns:
        A scalar; with a batch sharded over several processes, the contribution of this one.
    """
    logits = upcast_half(logits)
    class_weights = None if class_weights is None else class_weights.to(logits)
    total = F.cross_entropy(logits, labels, weight=class_weights, label_smoothing=smoothing, reduction="sum")
    weights = logits.new_ones(()).expand(len(labels)) if class_weights is None else class_weights[labels]
    return total / reduce(weights.sum())


def compute_class_weights(counts: np.ndarray) -> Tensor:
    """Weights (num_classes,) that give all classes the same total weight; their mean per image is 1.

    Args:
        counts: (num_classes,) images of each class; a class without images gets weight 0.
    """
    present = counts > 0
    weights = np.where(present, counts.sum() / (max(int(present.sum()), 1) * np.maximum(counts, 1)), 0.0)
    return torch.from_numpy(weights).float()
