"""Binary cross-entropy on logits, focal loss and label smoothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_ALPHA = 0.25


def bce_loss(logits: Tensor, targets: Tensor, *, pos_weight: Tensor, gamma: float = 0.0) -> Tensor:
    """Element-wise binary cross-entropy; with gamma > 0 the focal loss (Lin et al. 2017, arXiv:1708.02002).

    For soft targets t the focal factor uses p_t = t p + (1 - t)(1 - p) and alpha_t likewise.

    Args:
        logits, targets: same shape, targets in [0, 1].
        pos_weight: factor of the positive term, a scalar tensor.
        gamma: focal exponent, 0 for plain cross-entropy.

    Returns:
        Losses of the shape of `logits`, not reduced.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction="none")
    if gamma <= 0:
        return loss
    return compute_focal_weights(logits, targets, gamma=gamma) * loss


def compute_focal_weights(logits: Tensor, targets: Tensor, *, gamma: float, alpha: float = FOCAL_ALPHA) -> Tensor:
    """Factors alpha_t (1 - p_t)^gamma of the focal loss, of the shape of `logits`; see `bce_loss`."""
    probability = logits.sigmoid()
    one_minus_p_t = 1 - (targets * probability + (1 - targets) * (1 - probability))
    return mix_alpha(targets, alpha) * one_minus_p_t.pow(gamma)


def mix_alpha(targets: Tensor, alpha: float) -> Tensor:
    """Factor alpha_t: alpha of positives, 1 - alpha of negatives, between them for soft targets."""
    return targets * alpha + (1 - targets) * (1 - alpha)


def upcast_half(values: Tensor) -> Tensor:
    """Convert half precision to float32; keep other types."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def smooth_one_hot(classes: Tensor, num_classes: int, epsilon: float = 0.0) -> Tensor:
    """Targets (R, num_classes) float32 of classes (R,): 1 - epsilon / 2 at the class, epsilon / 2 elsewhere."""
    targets = torch.full((len(classes), num_classes), epsilon / 2, device=classes.device)
    return targets.scatter_(1, classes[:, None], 1 - epsilon / 2)
