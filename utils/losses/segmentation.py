"""The loss of the instance segmentation head: that of detection, and binary cross-entropy of masks inside boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from utils.losses.bce import at_least_float32
from utils.losses.detection import DetectionLoss, LossResult, Positives, shared_batch_size
from utils.ops.boxes import xywh_to_xyxy

PIXELS_AT_A_TIME = 1 << 25  # logits that are in memory at once on a GPU


class SegmentationLoss(nn.Module):
    """Box, mask, objectness and class loss over all levels of a segmentation head.

    A positive's mask is compared with that of its target inside the target's box, at the resolution of the prototypes:
    cross-entropy summed over the box, divided by the box's area, so that all sizes weigh the same; the mean over the
    positives of an image and level, summed over levels, averaged over images.

    Args:
        detection: the loss of the other columns; its `box` gain is also that of the masks.
    """

    def __init__(self, detection: DetectionLoss) -> None:
        super().__init__()
        self.detection = detection

    def forward(self, raw: Sequence[Tensor], prototypes: Tensor, targets: Tensor, masks: Tensor) -> LossResult:
        """Loss of one batch.

        Args:
            raw: one (B, na, H, W, 5 + num_classes + C) map per level, logits.
            prototypes: (B, C, h, w).
            targets: (N, 6) image index, class, x, y, w, h normalized; sorted by image.
            masks: as `Batch.masks`, of any size; brought to that of the prototypes.
        """
        items, positives = self.detection.parts(raw, targets)
        with torch.autocast(prototypes.device.type, enabled=False):
            rows = mask_rows(positives, targets.float(), prototypes.shape)
            masks = resized_masks(masks, prototypes.shape[2:])
            coefficients = torch.cat([level.further for level in positives])
            seg = _MaskLoss.apply(coefficients, at_least_float32(prototypes), rows, masks)
        images = shared_batch_size(prototypes)
        seg = seg * (self.detection.hyp.box / images)
        ordered = {"box": items["box"], "seg": seg, "obj": items["obj"], "cls": items["cls"]}
        return LossResult.of(ordered, images)


@dataclass(frozen=True)
class MaskRows:
    """The positives of all levels together, R rows, and the N targets they are to show.

    Attributes:
        targets: (R,) row of the target.
        weights: (R,) factor of the row's cross-entropy summed over the pixels inside its box; 0 for padding.
        images: (N,) image of each target.
        numbers: (N,) 1 for the first target of an image, 2 for the second, ...
        boxes_xyxy: (N, 4) in pixels of the prototypes.
    """

    targets: Tensor
    weights: Tensor
    images: Tensor
    numbers: Tensor
    boxes_xyxy: Tensor


def mask_rows(positives: Sequence[Positives], targets: Tensor, shape: Sequence[int]) -> MaskRows:
    """The rows of all levels for prototypes of a shape (B, C, h, w)."""
    batch_size, _, height, width = shape
    images = targets[:, 0].long()
    counts = images.new_zeros(batch_size).scatter_add_(0, images, torch.ones_like(images))
    firsts = counts.cumsum(0) - counts
    numbers = torch.arange(len(images), device=images.device) - firsts[images] + 1
    size = targets.new_ones(4) * torch.stack([targets.new_full((), side) for side in (width, height, width, height)])
    areas = targets[:, 4:6].prod(dim=1) * (height * width)
    weights = [level.rows.weights * _share_of_image(level, images, batch_size) for level in positives]
    rows = torch.cat([level.rows.targets for level in positives])
    return MaskRows(
        targets=rows,
        weights=torch.cat(weights) / areas[rows],
        images=images,
        numbers=numbers,
        boxes_xyxy=xywh_to_xyxy(targets[:, 2:6] * size),
    )


def _share_of_image(level: Positives, images: Tensor, batch_size: int) -> Tensor:
    """(R,) one over the number of positives that the row's image has in this level."""
    owners, weights = images[level.rows.targets], level.rows.weights
    counts = weights.new_zeros(batch_size).scatter_add_(0, owners, weights)
    return 1 / counts.clamp(min=1)[owners]


def resized_masks(masks: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Masks of either form at another size, each pixel taking the value of the nearest."""
    if masks.shape[1:] == tuple(size_hw):
        return masks
    return F.interpolate(masks[:, None].float(), tuple(size_hw), mode="nearest")[:, 0].to(masks.dtype)


def overlapping_masks(masks: Tensor, targets: Tensor, batch_size: int) -> Tensor:
    """One mask per target as an index map per image, in which small objects lie over large ones.

    Args:
        masks: (N, h, w) bool.
        targets: (N, 6), sorted by image.

    Returns:
        (B, h, w) int16, the second form of `Batch.masks`.
    """
    maps = masks.new_zeros((batch_size, *masks.shape[1:]), dtype=torch.int16)
    first = 0
    for shown, count in zip(maps, torch.bincount(targets[:, 0].long(), minlength=batch_size).tolist(), strict=True):
        own = masks[first : first + count]
        for number in own.flatten(1).sum(dim=1).argsort(descending=True, stable=True):
            shown.masked_fill_(own[number], 0).add_(own[number] * (number + 1))
        first += count
    return maps


@dataclass(frozen=True)
class _Group:
    """K rows whose masks are worked on together: of one image, seen through one window of it with P pixels.

    Attributes:
        image: number of the image.
        rows: (K,) numbers of the rows.
        window: part of the prototypes' height and width.
        wanted: (K or 1, P) 1 for the pixels that the rows are to show, else 0.
        weights: (K, P or 1) factor of each pixel's cross-entropy.
    """

    image: int
    rows: Tensor
    window: tuple[slice, slice]
    wanted: Tensor
    weights: Tensor


class _MaskLoss(torch.autograd.Function):
    """Weighted sum over rows of the cross-entropy inside their boxes.

    Worked out group by group with the gradients beside it, so that no logit is kept: memory is that of one group and
    of the inputs. On the CPU a group is a target and only its box is looked at. On other devices it is an image, as
    many small steps would cost more there than pixels outside of boxes do; the host waits for the device once, to
    learn how many rows each image has.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, prototypes: Tensor, rows: MaskRows, masks: Tensor) -> Tensor:
        wants_gradients = any(ctx.needs_input_grad)
        gradients = (torch.zeros_like(coefficients), torch.zeros_like(prototypes)) if wants_gradients else None
        total = prototypes.new_zeros(())
        groups = _groups_by_target if prototypes.device.type == "cpu" else _groups_by_image
        for group in groups(rows, masks, prototypes.shape):
            total += _add_group(group, coefficients, prototypes, gradients)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_coefficients, of_prototypes = ctx.saved_tensors
        return of_coefficients * gradient, of_prototypes * gradient, None, None


def _groups_by_target(rows: MaskRows, masks: Tensor, shape: Sequence[int]) -> Iterator[_Group]:
    """The rows of each target, with the pixels inside its box: those k along an axis with start <= k < end."""
    limits = torch.tensor([shape[3], shape[2], shape[3], shape[2]])
    boxes = rows.boxes_xyxy.ceil().long().clamp(min=0).minimum(limits).tolist()
    counts = torch.bincount(rows.targets, minlength=len(boxes)).tolist()
    order = rows.targets.argsort(stable=True)
    portions = zip(order.split(counts), rows.weights[order, None].split(counts), strict=True)
    places = zip(rows.images.tolist(), rows.numbers.tolist(), boxes, portions, strict=True)
    for target, (image, number, (x1, y1, x2, y2), (own, weights)) in enumerate(places):
        if len(own) and x1 < x2 and y1 < y2:
            window = (slice(y1, y2), slice(x1, x2))
            shown = masks[(target, *window)] if masks.dtype == torch.bool else masks[(image, *window)] == number
            yield _Group(image, own, window, shown.reshape(1, -1).to(weights), weights)


def _groups_by_image(rows: MaskRows, masks: Tensor, shape: Sequence[int]) -> Iterator[_Group]:
    """The rows of each image that are no padding, in portions, with all pixels."""
    images = rows.images[rows.targets]
    own = rows.weights.nonzero()[:, 0]
    counts = torch.bincount(images[own], minlength=shape[0]).tolist()
    portion = max(1, PIXELS_AT_A_TIME // (shape[2] * shape[3]))
    for image, members in enumerate(own[images[own].argsort(stable=True)].split(counts)):
        for part in members.split(portion) if len(members) else ():
            targets = rows.targets[part]
            shown = masks[targets] if masks.dtype == torch.bool else masks[image] == rows.numbers[targets, None, None]
            weights = _inside(rows.boxes_xyxy[targets], shape) * rows.weights[part, None]
            yield _Group(image, part, (slice(None), slice(None)), shown.flatten(1).to(weights), weights)


def _add_group(
    group: _Group, coefficients: Tensor, prototypes: Tensor, gradients: tuple[Tensor, Tensor] | None
) -> Tensor:
    """The loss of a group; what it adds to the gradients of coefficients and prototypes is put there."""
    place = (group.image, slice(None), *group.window)
    window = prototypes[place].flatten(1)  # (C, P)
    codes = coefficients[group.rows]
    logits = codes @ window
    loss = ((F.softplus(logits) - logits * group.wanted) * group.weights).sum()
    if gradients is not None:
        slope = logits.sigmoid_().sub_(group.wanted).mul_(group.weights)
        gradients[0].index_copy_(0, group.rows, slope @ window.T)
        view = gradients[1][place]
        view += (codes.T @ slope).view_as(view)
    return loss


def _inside(boxes_xyxy: Tensor, shape: Sequence[int]) -> Tensor:
    """(K, h * w) 1 for the pixels k with start <= k < end along both axes of the row's box, else 0."""
    x1, y1, x2, y2 = boxes_xyxy[:, :, None].unbind(1)  # (K, 1) each
    y, x = (torch.arange(side, device=x1.device) for side in shape[2:])
    inside = ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None]
    return inside.flatten(1).to(boxes_xyxy)
