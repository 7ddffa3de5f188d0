"""Semantic segmentation loss: pixel-wise cross-entropy, OHEM or focal loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.losses.bce import upcast_half
from utils.losses.result import LossResult, Reduce, count_images, keep_local


class SemanticLoss(nn.Module):
    """Mean loss of the labeled pixels of a batch plus weighted losses of auxiliary outputs, in float32 or finer.

    Args:
        kind: "ce": cross-entropy. "ohem": cross-entropy of the pixels whose true class has a score below `hard_score`,
            at least a fraction of `least_hard` (Shrivastava et al. 2016, arXiv:1604.03540, for pixels). "focal":
            cross-entropy times (1 - score of the true class) ** gamma (Lin et al. 2017, arXiv:1708.02002).
        class_weights: (num_classes,) weights of a weighted mean.
        aux_weights: factors of the auxiliary outputs, in their order.
        ignore: value of pixels without a label.
        hard_score, least_hard: of "ohem".
        gamma: of "focal".
    """

    class_weights: Tensor | None

    def __init__(
        self,
        kind: str = "ce",
        *,
        class_weights: Sequence[float] | Tensor | None = None,
        aux_weights: Sequence[float] = (0.15, 0.05),
        ignore: int = 255,
        hard_score: float = 0.7,
        least_hard: float = 1 / 16,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.kind, self.aux_weights, self.ignore = kind, tuple(aux_weights), ignore
        self.hard_loss, self.least_hard, self.gamma = -math.log(hard_score), least_hard, gamma
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, preds: Tensor | Sequence[Tensor], semantic_masks: Tensor, *, reduce: Reduce = keep_local
    ) -> LossResult:
        """Loss of one batch; 0 with zero gradients if no pixel is labeled.

        Args:
            preds: logits (B, num_classes, H, W), or a sequence of the main and the auxiliary ones.
            semantic_masks: (B, H, W) integers on the same device.
            reduce: adds counts over the ranks that share the batch.
        """
        main, *auxiliary = [preds] if isinstance(preds, Tensor) else preds
        with torch.autocast(main.device.type, enabled=False):
            targets = semantic_masks.long()
            loss = self._mean_loss(main, targets, reduce)
            for weight, logits in zip(self.aux_weights[: len(auxiliary)], auxiliary, strict=True):
                loss = loss + weight * self._mean_loss(logits, targets, reduce)
        return LossResult.from_items({"sem": loss}, count_images(main, reduce))

    def _mean_loss(self, logits: Tensor, targets: Tensor, reduce: Reduce) -> Tensor:
        """Scalar loss of one output (B, num_classes, H, W) against (B, H, W) int64."""
        losses = F.cross_entropy(upcast_half(logits), targets, ignore_index=self.ignore, reduction="none")  # (B, H, W)
        weights = self._pixel_weights(targets, logits.shape[1])
        if self.kind == "focal":
            one_minus_p = -torch.expm1(-losses)  # p: score of the true class
            one_minus_p = one_minus_p.clamp(min=torch.finfo(one_minus_p.dtype).eps)  # 0 ** 0.5 has no finite gradient
            losses = one_minus_p**self.gamma * losses
        elif self.kind == "ohem":
            weights = weights * self._hard_pixels(losses.detach(), weights > 0)
        # without labeled pixels the loss is 0 / tiny = 0, still connected to the logits
        return (losses * weights).sum() / reduce(weights.sum()).clamp(min=torch.finfo(torch.float32).tiny)

    def _pixel_weights(self, targets: Tensor, num_classes: int) -> Tensor:
        """Weights (B, H, W) float32 of the pixels, 0 for ignored ones."""
        if self.class_weights is None:
            return (targets != self.ignore).float()
        weights = self.class_weights.new_zeros(max(self.ignore + 1, num_classes))
        weights[:num_classes] = self.class_weights
        weights[self.ignore] = 0
        return weights[targets]

    def _hard_pixels(self, losses: Tensor, is_labeled: Tensor) -> Tensor:
        """Mask (B, H, W) of hard pixels: loss above the limit, or the top k if these are fewer than `least_hard`.

        Synchronizes with the device, as the number of hard pixels decides.
        """
        is_hard = (losses > self.hard_loss) & is_labeled
        min_count = int(is_labeled.sum() * self.least_hard)
        if int(is_hard.sum()) >= min_count:
            return is_hard
        candidates = torch.where(is_labeled, losses, -1.0).flatten()
        is_top = torch.zeros_like(candidates, dtype=torch.bool)
        is_top[candidates.topk(min_count, sorted=False).indices] = True
        return is_top.view_as(is_labeled)
