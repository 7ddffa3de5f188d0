"""Instance segmentation loss: detection loss and binary cross-entropy of masks inside boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from utils.losses.bce import upcast_half
from utils.losses.detection import DetectionLoss, Positives
from utils.losses.result import LossResult, Reduce, count_images, keep_local
from utils.ops.boxes import xywh_to_xyxy

MAX_GROUP_PIXELS = 1 << 25  # mask logits in memory at a time on a GPU


class SegmentationLoss(nn.Module):
    """Box, mask, objectness and class loss over all levels of a segmentation head.

    The mask loss of a positive is the mean cross-entropy over the pixels of its target's box, at the resolution of the
    prototypes. It is averaged over the positives of an image and level, summed over levels and averaged over images.

    Args:
        detection: loss of boxes, objectness and classes; its `box` gain also applies to masks.
    """

    def __init__(self, detection: DetectionLoss) -> None:
        super().__init__()
        self.detection = detection

    def forward(
        self,
        raw: Sequence[Tensor],
        prototypes: Tensor,
        targets: Tensor,
        masks: Tensor,
        *,
        reduce: Reduce = keep_local,
    ) -> LossResult:
        """Loss of one batch.

        Args:
            raw: logits (B, na, H, W, 5 + num_classes + C) of each level.
            prototypes: (B, C, h, w).
            targets: (N, 6) image index, class, x, y, w, h normalized; sorted by image.
            masks: as `Batch.masks`, resized to the prototypes.
            reduce: adds counts over the ranks that share the batch.
        """
        items, positives = self.detection.compute_items(raw, targets, reduce)
        with torch.autocast(prototypes.device.type, enabled=False):
            mask_targets = build_mask_targets(positives, targets.float(), prototypes.shape)
            masks = resize_masks(masks, prototypes.shape[2:])
            coefficients = torch.cat([level.extra for level in positives])
            seg = _MaskLoss.apply(coefficients, upcast_half(prototypes), mask_targets, masks)
        batch_size = count_images(prototypes, reduce)
        seg = seg * (self.detection.hyp.box / batch_size)
        items = {"box": items["box"], "seg": seg, "obj": items["obj"], "cls": items["cls"]}
        return LossResult.from_items(items, batch_size)


@dataclass(frozen=True)
class MaskTargets:
    """The positives of all levels, R rows, and their N targets.

    Attributes:
        targets: (R,) target of each row.
        weights: (R,) factor of each row's cross-entropy, summed over its box; 0 for padding.
        image_ids: (N,) image of each target.
        instance_ids: (N,) number of each target within its image, from 1.
        boxes_xyxy: (N, 4) in pixels of the prototypes.
    """

    targets: Tensor
    weights: Tensor
    image_ids: Tensor
    instance_ids: Tensor
    boxes_xyxy: Tensor


def build_mask_targets(positives: Sequence[Positives], targets: Tensor, shape: Sequence[int]) -> MaskTargets:
    """Mask targets of all levels for prototypes of a shape (B, C, h, w)."""
    batch_size, _, height, width = shape
    image_ids = targets[:, 0].long()
    counts = image_ids.new_zeros(batch_size).scatter_add_(0, image_ids, torch.ones_like(image_ids))
    firsts = counts.cumsum(0) - counts
    instance_ids = torch.arange(len(image_ids), device=image_ids.device) - firsts[image_ids] + 1
    size = targets.new_ones(4) * torch.stack([targets.new_full((), side) for side in (width, height, width, height)])
    areas = targets[:, 4:6].prod(dim=1) * (height * width)
    weights = [level.rows.weights * _image_weights(level, image_ids, batch_size) for level in positives]
    rows = torch.cat([level.rows.targets for level in positives])
    return MaskTargets(
        targets=rows,
        weights=torch.cat(weights) / areas[rows],
        image_ids=image_ids,
        instance_ids=instance_ids,
        boxes_xyxy=xywh_to_xyxy(targets[:, 2:6] * size),
    )


def _image_weights(level: Positives, image_ids: Tensor, batch_size: int) -> Tensor:
    """For each row (R,), one over the number of positives of its image in this level."""
    row_images, weights = image_ids[level.rows.targets], level.rows.weights
    counts = weights.new_zeros(batch_size).scatter_add_(0, row_images, weights)
    return 1 / counts.clamp(min=1)[row_images]


def resize_masks(masks: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Resize masks of either form of `Batch.masks` (nearest neighbor)."""
    if masks.shape[1:] == tuple(size_hw):
        return masks
    return F.interpolate(masks[:, None].float(), tuple(size_hw), mode="nearest")[:, 0].to(masks.dtype)


def merge_masks(masks: Tensor, targets: Tensor, batch_size: int) -> Tensor:
    """Merge the masks of each image to an index map, small objects over large ones.

    Args:
        masks: (N, h, w) bool.
        targets: (N, 6), sorted by image.

    Returns:
        (B, h, w) int16, the second form of `Batch.masks`.
    """
    index_maps = masks.new_zeros((batch_size, *masks.shape[1:]), dtype=torch.int16)
    first = 0
    counts = torch.bincount(targets[:, 0].long(), minlength=batch_size).tolist()
    for index_map, count in zip(index_maps, counts, strict=True):
        image_masks = masks[first : first + count]
        for number in image_masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True):
            index_map.masked_fill_(image_masks[number], 0).add_(image_masks[number] * (number + 1))
        first += count
    return index_maps


@dataclass(frozen=True)
class _Group:
    """K rows of one image that are processed together, in a window of P pixels.

    Attributes:
        image: index of the image.
        rows: (K,) indices of the rows.
        window: part of the prototypes' height and width.
        masks: (K or 1, P) target masks, 1 or 0.
        weights: (K, P or 1) factor of each pixel's cross-entropy.
    """

    image: int
    rows: Tensor
    window: tuple[slice, slice]
    masks: Tensor
    weights: Tensor


class _MaskLoss(torch.autograd.Function):
    """Weighted sum over rows of the cross-entropy inside their boxes.

    Loss and gradients are computed together, group by group, so that no logits are stored: memory is that of the inputs
    and one group. With autograd, a training step of yolov5n-seg takes 15 % longer (CPU, 320 px). On the CPU a group is
    the box of a target. On other devices it is a whole image, where many small kernels cost more than pixels outside
    of boxes; the host synchronizes once, for the number of rows per image.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, prototypes: Tensor, targets: MaskTargets, masks: Tensor) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)
        gradients = (torch.zeros_like(coefficients), torch.zeros_like(prototypes)) if needs_grad else None
        total = prototypes.new_zeros(())
        iter_groups = _iter_target_groups if prototypes.device.type == "cpu" else _iter_image_groups
        for group in iter_groups(targets, masks, prototypes.shape):
            total += _add_group(group, coefficients, prototypes, gradients)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        coefficients_grad, prototypes_grad = ctx.saved_tensors
        return coefficients_grad * gradient, prototypes_grad * gradient, None, None


def _iter_target_groups(targets: MaskTargets, masks: Tensor, shape: Sequence[int]) -> Iterator[_Group]:
    """The rows of each target, with the pixels in its box (start <= k < end along each axis)."""
    limits = torch.tensor([shape[3], shape[2], shape[3], shape[2]])
    boxes = targets.boxes_xyxy.ceil().long().clamp(min=0).minimum(limits).tolist()
    counts = torch.bincount(targets.targets, minlength=len(boxes)).tolist()
    order = targets.targets.argsort(stable=True)
    target_rows = zip(order.split(counts), targets.weights[order, None].split(counts), strict=True)
    fields = zip(targets.image_ids.tolist(), targets.instance_ids.tolist(), boxes, target_rows, strict=True)
    for index, (image, instance, (x1, y1, x2, y2), (rows, weights)) in enumerate(fields):
        if len(rows) and x1 < x2 and y1 < y2:
            window = (slice(y1, y2), slice(x1, x2))
            mask = masks[(index, *window)] if masks.dtype == torch.bool else masks[(image, *window)] == instance
            yield _Group(image, rows, window, mask.reshape(1, -1).to(weights), weights)


def _iter_image_groups(targets: MaskTargets, masks: Tensor, shape: Sequence[int]) -> Iterator[_Group]:
    """The rows of each image without padding, in chunks, with all pixels."""
    image_ids = targets.image_ids[targets.targets]
    positives = targets.weights.nonzero()[:, 0]
    counts = torch.bincount(image_ids[positives], minlength=shape[0]).tolist()
    chunk_size = max(1, MAX_GROUP_PIXELS // (shape[2] * shape[3]))
    by_image = positives[image_ids[positives].argsort(stable=True)].split(counts)
    for image, image_rows in enumerate(by_image):
        for rows in image_rows.split(chunk_size) if len(image_rows) else ():
            indices = targets.targets[rows]
            instances = targets.instance_ids[indices, None, None]
            row_masks = masks[indices] if masks.dtype == torch.bool else masks[image] == instances
            weights = _inside_boxes(targets.boxes_xyxy[indices], shape) * targets.weights[rows, None]
            yield _Group(image, rows, (slice(None), slice(None)), row_masks.flatten(1).to(weights), weights)


def _add_group(
    group: _Group, coefficients: Tensor, prototypes: Tensor, gradients: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Loss of a group; adds its gradients of coefficients and prototypes to `gradients`, in place."""
    place = (group.image, slice(None), *group.window)
    window = prototypes[place].flatten(1)  # (C, P)
    group_coefficients = coefficients[group.rows]  # (K, C)
    logits = group_coefficients @ window  # (K, P)
    loss = ((F.softplus(logits) - logits * group.masks) * group.weights).sum()
    if gradients is not None:
        logits_grad = logits.sigmoid_().sub_(group.masks).mul_(group.weights)
        gradients[0].index_copy_(0, group.rows, logits_grad @ window.T)
        window_grad = gradients[1][place]
        window_grad += (group_coefficients.T @ logits_grad).view_as(window_grad)
    return loss


def _inside_boxes(boxes_xyxy: Tensor, shape: Sequence[int]) -> Tensor:
    """Mask (K, h * w) of the pixels in each box: 1 for start <= k < end along both axes, else 0."""
    x1, y1, x2, y2 = boxes_xyxy[:, :, None].unbind(1)  # (K, 1) each
    y, x = (torch.arange(side, device=x1.device) for side in shape[2:])
    inside = ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None]
    return inside.flatten(1).to(boxes_xyxy)
