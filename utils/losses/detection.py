"""Detection loss: CIoU of boxes, binary cross-entropy of objectness and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from utils.config.hyp import Hyperparameters
from utils.losses.assign import LevelTargets, assign_targets, select_highest_priority
from utils.losses.bce import bce_loss, smooth_one_hot, upcast_half
from utils.losses.result import LossResult, Reduce, count_images, keep_local
from utils.ops.boxes import box_iou, xywh_to_xyxy

THREE_LEVEL_BALANCE = (4.0, 1.0, 0.4)
MULTI_LEVEL_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
AUTOBALANCE_DECAY = 0.9999


def scale_gains(hyp: Hyperparameters, num_layers: int, num_classes: int, imgsz: int) -> Hyperparameters:
    """Scale the gains from the 3 levels, 80 classes and 640 px that hyperparameters are tuned for."""
    per_level = 3 / num_layers
    return replace(
        hyp,
        box=hyp.box * per_level,
        obj=hyp.obj * per_level * (imgsz / 640) ** 2,
        cls=hyp.cls * per_level * num_classes / 80,
    )


@dataclass(frozen=True)
class Positives:
    """The positives of one level and their extra logits (R, E), those after box, objectness and classes."""

    rows: LevelTargets
    extra: Tensor


class DetectionLoss(nn.Module):
    """Box, objectness and class loss over all levels of a detection head.

    The objectness target of a positive cell is the CIoU of its predicted box; for several targets in one cell,
    `LevelTargets.priorities` decides, the same way on every device. Computed in float32 or finer, also under autocast,
    and without device synchronization. Means are over the whole batch if it is sharded over several processes.

    Args:
        anchors: (nl, na, 2) in cells of their level.
        strides: pixels per cell of each level.
        num_classes: with 1 there is no class loss.
        hyp: with scaled gains (see `scale_gains`).
        autobalance: adapt the objectness weight of each level to its loss, in training steps only; the weights are
            saved in `state_dict()`.
    """

    anchors: Tensor
    balance: Tensor
    obj_pos_weight: Tensor
    cls_pos_weight: Tensor

    def __init__(
        self,
        *,
        anchors: Tensor,
        strides: Sequence[float] | Tensor,
        num_classes: int,
        hyp: Hyperparameters,
        autobalance: bool = False,
    ) -> None:
        super().__init__()
        anchors = anchors.detach().float()
        self.num_classes = num_classes
        self.hyp = hyp
        self.autobalance = autobalance
        strides = [float(stride) for stride in strides]
        self.reference_level = strides.index(16.0) if 16.0 in strides else 0
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("balance", anchors.new_tensor(get_level_balance(len(anchors))), persistent=autobalance)
        self.register_buffer("obj_pos_weight", anchors.new_tensor(hyp.obj_pw), persistent=False)
        self.register_buffer("cls_pos_weight", anchors.new_tensor(hyp.cls_pw), persistent=False)

    def forward(
        self,
        raw: Sequence[Tensor],
        targets: Tensor,
        *,
        reduce: Reduce = keep_local,
        assigned: list[LevelTargets] | None = None,
    ) -> LossResult:
        """Loss of one batch; arguments as `compute_items`."""
        items, _ = self.compute_items(raw, targets, reduce, assigned)
        return LossResult.from_items(items, count_images(raw[0], reduce))

    def compute_items(
        self,
        raw: Sequence[Tensor],
        targets: Tensor,
        reduce: Reduce = keep_local,
        assigned: list[LevelTargets] | None = None,
    ) -> tuple[dict[str, Tensor], list[Positives]]:
        """Loss items of one batch with gradients, gains applied, and the positives of each level.

        Args:
            raw: logits (B, na, H, W, 5 + num_classes + E) of each level.
            targets: (N, 6) image index, class, x, y, w, h normalized; N may be 0.
            reduce: adds counts over the ranks that share the batch.
            assigned: the positives of each level, if they are not those of `assign_targets`.
        """
        with torch.autocast(raw[0].device.type, enabled=False):
            if assigned is None:
                grids_hw = [(level.shape[2], level.shape[3]) for level in raw]
                assigned = assign_targets(targets.float(), self.anchors, grids_hw, max_ratio=self.hyp.anchor_t)
            num_positives = torch.stack([rows.weights.sum() for rows in assigned])  # (nl,)
            num_positives = reduce(num_positives).clamp(min=1)
            batch_size = count_images(raw[0], reduce)
            levels = [
                self._level_loss(level, rows, count, batch_size)
                for level, rows, count in zip(raw, assigned, num_positives, strict=True)
            ]
            box, obj, cls = (torch.stack([level[kind] for level in levels]) for kind in range(3))  # each (nl,)
            weighted_obj = (obj * self.balance).sum()
            if self.autobalance and torch.is_grad_enabled():
                self._update_balance(reduce(obj.detach()))
        items = {
            "box": box.sum() * self.hyp.box,
            "obj": weighted_obj * self.hyp.obj,
            "cls": cls.sum() * self.hyp.cls,
        }
        return items, [Positives(rows, level[3]) for rows, level in zip(assigned, levels, strict=True)]

    def _level_loss(
        self, level: Tensor, rows: LevelTargets, num_positives: Tensor, batch_size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Box, objectness and class loss of one level, without gains and balance, and the extra logits (R, E).

        Args:
            num_positives, batch_size: of the whole batch, to divide sums.
        """
        hyp = self.hyp
        objectness, preds = _GatherLogits.apply(level, rows.cells)  # (B, na, H, W), (R, 5 + num_classes + E)
        obj_logits = upcast_half(objectness).flatten()
        preds, extra = upcast_half(preds).tensor_split([5 + self.num_classes], dim=1)
        num_cells = batch_size * (level.shape[1] * level.shape[2] * level.shape[3])

        ious = box_iou(_decode(preds, rows.anchors), xywh_to_xyxy(rows.boxes_xywh), "ciou")
        box = ((1 - ious) * rows.weights).sum() / num_positives

        obj_targets = self._build_obj_targets(ious.detach(), rows, len(obj_logits))
        obj = bce_loss(obj_logits, obj_targets, pos_weight=self.obj_pos_weight, gamma=hyp.fl_gamma).sum() / num_cells

        if self.num_classes == 1:
            return box, obj, box.new_zeros(()), extra
        cls_targets = smooth_one_hot(rows.classes, self.num_classes, hyp.label_smoothing).to(preds)
        per_class = bce_loss(preds[:, 5:], cls_targets, pos_weight=self.cls_pos_weight, gamma=hyp.fl_gamma)
        cls = (per_class.mean(dim=1) * rows.weights).sum() / num_positives
        return box, obj, cls, extra

    @staticmethod
    def _build_obj_targets(ious: Tensor, rows: LevelTargets, num_cells: int) -> Tensor:
        """Objectness targets (num_cells,): the CIoU in assigned cells, else 0."""
        is_selected = select_highest_priority(rows, num_cells)
        obj_targets = ious.new_zeros(num_cells + 1)  # the last one is for rows that are not selected
        obj_targets.scatter_(0, torch.where(is_selected, rows.cells, num_cells), ious.clamp(min=0))
        return obj_targets[:num_cells]

    def _update_balance(self, obj: Tensor) -> None:
        """Move each level's weight towards the inverse of its loss, keeping the stride-16 level at 1."""
        balance = self.balance * AUTOBALANCE_DECAY + (1 - AUTOBALANCE_DECAY) / obj
        self.balance = balance / balance[self.reference_level]  # a new tensor: backward needs the old one


def get_level_balance(num_levels: int) -> list[float]:
    """Objectness weight of each level, finest first; levels after the fifth have the weight of the fifth."""
    balance = THREE_LEVEL_BALANCE if num_levels == 3 else MULTI_LEVEL_BALANCE
    return [balance[min(level, len(balance) - 1)] for level in range(num_levels)]


class _GatherLogits(torch.autograd.Function):
    """Objectness (B, na, H, W) of all cells and the rows (R, no) of some cells, from logits (B, na, H, W, no).

    Plain indexing would allocate two gradients of the size of the logits and add them, in another memory layout; with
    this function a training step of yolov5n is 10 % faster (CPU, 320 px).
    """

    @staticmethod
    def forward(ctx: Any, level: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(level, cells)
        return level[..., 4].clone(), level[unravel_cells(cells, level.shape)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, objectness_grad: Tensor, rows_grad: Tensor) -> tuple[Tensor, None]:
        level, cells = ctx.saved_tensors
        grad = torch.zeros_like(level)
        grad.index_put_(unravel_cells(cells, level.shape), rows_grad, accumulate=True)
        grad[..., 4] += objectness_grad
        return grad, None


def unravel_cells(cells: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, anchor, row and column of flat indices into (B, na, H, W, ...), to index any memory layout."""
    _, num_anchors, height, width, *_ = shape
    rows, planes = cells // width, cells // (width * height)
    return planes // num_anchors, planes % num_anchors, rows % height, cells % width


def _decode(logits: Tensor, anchors: Tensor) -> Tensor:
    """Decode logits (R, 4+) to xyxy (R, 4) in cells, relative to the row's cell: xy = 2s - 0.5, wh = (2s)^2 anchor."""
    scaled = logits[:, :4].sigmoid() * 2
    return xywh_to_xyxy(torch.cat((scaled[:, :2] - 0.5, scaled[:, 2:].square() * anchors), dim=1))
