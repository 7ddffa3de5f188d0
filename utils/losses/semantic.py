"""The loss of semantic masks: cross-entropy per pixel, of all pixels, of the hard ones, or focal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.core.distributed import shared_sum
from utils.losses.bce import at_least_float32
from utils.losses.detection import LossResult, shared_batch_size

KINDS = ("ce", "ohem", "focal")


class SemanticLoss(nn.Module):
    """Mean over the counted pixels of a batch, plus the weighted losses of auxiliary outputs. Float32 at least.

    Args:
        kind: "ce" cross-entropy; "ohem" only of the pixels whose true class has less than `hard_score`, a share of
            `least_hard` at least (Shrivastava et al. 2016, arXiv:1604.03540, for pixels); "focal" each pixel's
            cross-entropy times (1 - score of its class) ** gamma (Lin et al. 2017, arXiv:1708.02002).
        class_weights: (num_classes,) factor of each class; the mean is the weighted one.
        aux_weights: factors of the outputs after the first, in their order.
        ignore: semantic mask value that does not count.
        hard_score, least_hard: of "ohem".
        gamma: of "focal".

    Raises:
        ValueError: there is no such kind.
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
        if kind not in KINDS:
            raise ValueError(f"semantic loss {kind!r}: there are {', '.join(KINDS)}")
        self.kind, self.aux_weights, self.ignore = kind, tuple(aux_weights), ignore
        self.hard_loss, self.least_hard, self.gamma = -math.log(hard_score), least_hard, gamma
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, preds: Tensor | Sequence[Tensor], semantic_masks: Tensor) -> LossResult:
        """Loss of one batch; without any counted pixel it is 0 and so are its gradients.

        Args:
            preds: logits (B, num_classes, H, W), or several of them, the main ones first.
            semantic_masks: (B, H, W) integers on the same device.

        Raises:
            ValueError: there are more auxiliary outputs than weights.
        """
        main, *auxiliary = [preds] if isinstance(preds, Tensor) else preds
        if len(auxiliary) > len(self.aux_weights):
            raise ValueError(f"{len(auxiliary)} auxiliary outputs, but {len(self.aux_weights)} aux_weights")
        with torch.autocast(main.device.type, enabled=False):
            targets = semantic_masks.long()
            loss = self.mean_loss(main, targets)
            for weight, logits in zip(self.aux_weights, auxiliary, strict=False):
                loss = loss + weight * self.mean_loss(logits, targets)
        return LossResult.of({"sem": loss}, shared_batch_size(main))

    def mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of one output (B, num_classes, H, W) against (B, H, W) int64."""
        losses = F.cross_entropy(
            at_least_float32(logits), targets, ignore_index=self.ignore, reduction="none"
        )  # (B, H, W)
        weights = self.pixel_weights(targets, logits.shape[1])
        if self.kind == "focal":
            doubt = -torch.expm1(-losses)  # 1 - score of the own class
            losses = doubt.clamp(min=torch.finfo(doubt.dtype).eps) ** self.gamma * losses  # 0 ** 0.5 has no slope
        elif self.kind == "ohem":
            weights = weights * self.hard_pixels(losses.detach(), weights > 0)
        # a sum of no losses keeps its way to the logits; the smallest number keeps 0 / 0 away
        return (losses * weights).sum() / shared_sum(weights.sum()).clamp(min=torch.finfo(torch.float32).tiny)

    def pixel_weights(self, targets: Tensor, num_classes: int) -> Tensor:
        """(B, H, W) float32 weight of each pixel, 0 where it is ignored."""
        if self.class_weights is None:
            return (targets != self.ignore).float()
        by_value = self.class_weights.new_zeros(max(self.ignore + 1, num_classes))
        by_value[:num_classes] = self.class_weights
        by_value[self.ignore] = 0
        return by_value[targets]

    def hard_pixels(self, losses: Tensor, counted: Tensor) -> Tensor:
        """(B, H, W) bool: pixels of high loss, or the highest where those are fewer than `least_hard` of the counted.

        Waits for the device: how many there are decides what is done.
        """
        hard = (losses > self.hard_loss) & counted
        wanted = int(counted.sum() * self.least_hard)
        if int(hard.sum()) >= wanted:
            return hard
        among = torch.where(counted, losses, -1.0).flatten()
        chosen = torch.zeros_like(among, dtype=torch.bool)
        chosen[among.topk(wanted, sorted=False).indices] = True
        return chosen.view_as(counted)
