"""Binary cross-entropy on logits, its focal variant, and smoothed class targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_ALPHA = 0.25


def binary_loss(logits: Tensor, targets: Tensor, *, pos_weight: Tensor, gamma: float = 0.0) -> Tensor:
    """Binary cross-entropy of each element; with gamma > 0 its focal variant (Lin et al. 2017, arXiv:1708.02002).

    The focal factor of soft targets t follows from the expected probability of the right answer,
    p_t = t p + (1 - t)(1 - p), and from the expected alpha.

    Args:
        logits, targets: same shape, targets in [0, 1].
        pos_weight: factor on the positive part, a scalar tensor.
        gamma: 0 for the plain loss.

    Returns:
        Losses in the shape of `logits`, not reduced.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction="none")
    if gamma <= 0:
        return loss
    probability = logits.sigmoid()
    miss = 1 - (targets * probability + (1 - targets) * (1 - probability))  # 1 - p_t
    alpha = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
    return alpha * miss.pow(gamma) * loss


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32, all else as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def smooth_one_hot(classes: Tensor, num_classes: int, epsilon: float = 0.0) -> Tensor:
    """(R,) class numbers -> (R, num_classes) float32 targets: 1 - epsilon / 2 at the class, epsilon / 2 elsewhere."""
    targets = torch.full((len(classes), num_classes), epsilon / 2, device=classes.device)
    return targets.scatter_(1, classes[:, None], 1 - epsilon / 2)
