"""Public address of the instance segmentation loss, with its known signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.loss import HeadLoss, Indices, assign_levels, get_head, split_levels
from utils.losses.segmentation import SegmentationLoss
from utils.segment.general import crop_mask
from utils.torch_utils import de_parallel


class ComputeLoss(HeadLoss):
    """Loss of boxes, masks, objectness and classes (see `utils.losses.segmentation`).

    Args:
        model, autobalance: as for `utils.loss.ComputeLoss`.
        overlap: masks are one index map per image instead of one plane per object.

    Attributes:
        nm: number of mask coefficients.
    """

    def __init__(self, model: Any, autobalance: bool = False, overlap: bool = False) -> None:
        super().__init__(model, autobalance)
        self.overlap = overlap
        self.nm = int(get_head(de_parallel(model)).nm)
        self._mask_loss = SegmentationLoss(self._loss)

    def __call__(self, preds: tuple[Sequence[Tensor], Tensor], targets: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of one batch.

        Args:
            preds: logits (B, na, H, W, 5 + nc + nm) of each level, and prototypes (B, nm, h, w).
            targets: (N, 6) image index, class, x, y, w, h normalized; sorted by image.
            masks: with `overlap` index maps (B, h, w), object i of an image has the value i + 1; else (N, h, w), 1
                where the object is. They are resized to the prototypes.

        Returns:
            The loss (1,), multiplied by the batch size, and its items (4,) box, mask, objectness and classes, detached.
        """
        self._update_settings()
        maps, prototypes = preds
        masks = masks.to(torch.int16) if self.overlap else masks > 0.5
        result = self._mask_loss(maps, prototypes, targets, masks.to(prototypes.device))
        self._read_balance()
        return result.total.reshape(1), torch.stack(list(result.items.values()))

    def single_mask_loss(self, gt_mask: Tensor, pred: Tensor, proto: Tensor, xyxy: Tensor, area: Tensor) -> Tensor:
        """Mask loss of n objects of one image, a scalar.

        The cross-entropy inside the box is averaged over all pixels, divided by the box's area and averaged over the
        objects.

        Args:
            gt_mask: (n, h, w) in {0, 1}.
            pred: (n, nm) mask coefficients.
            proto: (nm, h, w) prototypes.
            xyxy: (n, 4) boxes in pixels of the prototypes.
            area: (n,) areas of the boxes as fractions of the image.
        """
        logits = torch.einsum("nc,chw->nhw", pred, proto)
        entropy = F.binary_cross_entropy_with_logits(logits, gt_mask.to(logits), reduction="none")
        return (crop_mask(entropy, xyxy).mean(dim=(1, 2)) / area).mean()

    def build_targets(
        self, p: Sequence[Tensor], targets: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Indices], list[Tensor], list[Tensor], list[Tensor]]:
        """The positives of each level.

        Returns:
            The four lists of `utils.loss.ComputeLoss.build_targets`; the mask of each row (R,), that is the value of
            the object in an index map or the number of its plane; and the boxes (R, 4) as x, y, w, h normalized.
        """
        levels = assign_levels(self._loss, p, targets)
        numbers = torch.arange(len(targets), device=targets.device)
        if self.overlap:
            images = targets[:, 0].long()
            numbers = numbers - torch.searchsorted(images, images) + 1  # images are sorted
        boxes = [targets[rows.targets, 2:6] for rows in levels]
        return (*split_levels(levels, p), [numbers[rows.targets] for rows in levels], boxes)
