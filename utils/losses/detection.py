"""The loss of the anchor-based detection head: CIoU on boxes, binary cross-entropy on objectness and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from utils.config.hyp import Hyperparameters
from utils.core.distributed import shared_sum
from utils.losses.assign import LevelTargets, assign_targets, highest_rank_wins
from utils.losses.bce import at_least_float32, binary_loss, smooth_one_hot
from utils.ops.boxes import box_iou, xywh_to_xyxy

BALANCE_OF_THREE = (4.0, 1.0, 0.4)
BALANCE_OF_MORE = (4.0, 1.0, 0.25, 0.06, 0.02)
AUTOBALANCE_DECAY = 0.9999


@dataclass(frozen=True)
class DetectionLossConfig:
    """Numbers of the loss, gains as they multiply its parts (see `scaled_gains`).

    Attributes:
        box, obj, cls: gains of the three parts.
        obj_pw, cls_pw: weight of positives in objectness and classes.
        anchor_t: an anchor suits a target if no side differs by this factor.
        fl_gamma: exponent of the focal loss, 0 for none.
        label_smoothing: epsilon of the class targets.
    """

    box: float = 0.05
    obj: float = 1.0
    cls: float = 0.5
    obj_pw: float = 1.0
    cls_pw: float = 1.0
    anchor_t: float = 4.0
    fl_gamma: float = 0.0
    label_smoothing: float = 0.0


def scaled_gains(hyp: Hyperparameters, num_layers: int, num_classes: int, imgsz: int) -> DetectionLossConfig:
    """The loss numbers of a hyp file, gains adapted from the 3 levels, 80 classes and 640 px they were tuned for."""
    per_level = 3 / num_layers
    return DetectionLossConfig(
        box=hyp.box * per_level,
        obj=hyp.obj * per_level * (imgsz / 640) ** 2,
        cls=hyp.cls * per_level * num_classes / 80,
        obj_pw=hyp.obj_pw,
        cls_pw=hyp.cls_pw,
        anchor_t=hyp.anchor_t,
        fl_gamma=hyp.fl_gamma,
        label_smoothing=hyp.label_smoothing,
    )


@dataclass(frozen=True)
class LossResult:
    """What one batch costs.

    Attributes:
        total: scalar to minimize, the sum of the items times the batch size.
        items: "box", "obj", "cls": detached scalars on the device, gains applied, mean over the batch. Of a batch that
            is dealt out to several processes, this one's share: the shares add up to the items of the whole batch.
    """

    total: Tensor
    items: dict[str, Tensor]

    @classmethod
    def of(cls, items: Mapping[str, Tensor], batch_size: int | Tensor) -> LossResult:
        """The result of items that still carry gradients."""
        total = torch.stack(list(items.values())).sum() * batch_size
        return cls(total, {name: value.detach() for name, value in items.items()})


@dataclass(frozen=True)
class Positives:
    """The assigned rows of one level and what the map holds for them after box, objectness and classes (R, further)."""

    rows: LevelTargets
    further: Tensor


class DetectionLoss(nn.Module):
    """Box, objectness and class loss over all levels of a detection head.

    The objectness target of a positive cell is the CIoU its box has reached; where several targets meet in one cell,
    `LevelTargets.ranks` decides, on every device alike. Float32 at least, also under autocast. On a GPU the step
    never waits for the device. Where several processes share a batch, the means are those over the whole of it.

    Args:
        anchors: (nl, na, 2) in cells of their level, on the device of the loss.
        strides: pixels per cell of each level.
        num_classes: with 1 there is no class loss.
        hyp: gains and settings, see `scaled_gains`.
        autobalance: adapt the weight of each level's objectness to its size; changes in training steps only and
            travels in `state_dict()`.
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
        hyp: DetectionLossConfig,
        autobalance: bool = False,
    ) -> None:
        super().__init__()
        anchors = anchors.detach().float()
        self.num_classes = num_classes
        self.hyp = hyp
        self.autobalance = autobalance
        strides = [float(stride) for stride in strides]
        self._reference_level = strides.index(16.0) if 16.0 in strides else 0
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("balance", anchors.new_tensor(level_balance(len(anchors))), persistent=autobalance)
        self.register_buffer("obj_pos_weight", anchors.new_tensor(hyp.obj_pw), persistent=False)
        self.register_buffer("cls_pos_weight", anchors.new_tensor(hyp.cls_pw), persistent=False)

    def forward(self, raw: Sequence[Tensor], targets: Tensor) -> LossResult:
        """Loss of one batch; arguments as `parts`."""
        items, _ = self.parts(raw, targets)
        return LossResult.of(items, shared_batch_size(raw[0]))

    def parts(self, raw: Sequence[Tensor], targets: Tensor) -> tuple[dict[str, Tensor], list[Positives]]:
        """The items of one batch, gains applied, with gradients; and the positives of each level.

        Args:
            raw: one (B, na, H, W, 5 + num_classes + further) map per level, logits.
            targets: (N, 6) image index, class, x, y, w, h normalized; N may be 0.
        """
        with torch.autocast(raw[0].device.type, enabled=False):
            grids_hw = [(level.shape[2], level.shape[3]) for level in raw]
            assigned = assign_targets(targets.float(), self.anchors, grids_hw, max_ratio=self.hyp.anchor_t)
            positives = shared_sum(torch.stack([rows.weights.sum() for rows in assigned])).clamp(min=1)  # (nl,)
            images = shared_batch_size(raw[0])
            parts = [
                self._level_loss(level, rows, num_positives, images)
                for level, rows, num_positives in zip(raw, assigned, positives, strict=True)
            ]
            box, obj, cls = (torch.stack([part[kind] for part in parts]) for kind in range(3))  # each (nl,)
            weighted_obj = (obj * self.balance).sum()
            if self.autobalance and torch.is_grad_enabled():
                self._update_balance(shared_sum(obj.detach()))
        items = {
            "box": box.sum() * self.hyp.box,
            "obj": weighted_obj * self.hyp.obj,
            "cls": cls.sum() * self.hyp.cls,
        }
        return items, [Positives(rows, part[3]) for rows, part in zip(assigned, parts, strict=True)]

    def _level_loss(
        self, level: Tensor, rows: LevelTargets, num_positives: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Box, objectness and class loss of one level, before gains and balance, and the further columns (R, *).

        Args:
            num_positives, images: what the whole batch has, by which the sums are divided.
        """
        hyp = self.hyp
        objectness, asked = _ReadMap.apply(level, rows.cells)
        obj_logits = at_least_float32(objectness).flatten()
        asked, further = at_least_float32(asked).tensor_split(
            [5 + self.num_classes], dim=1
        )  # (R, 5 + num_classes), (R, *)
        cells = images * (level.shape[1] * level.shape[2] * level.shape[3])

        overlaps = box_iou(_decode(asked, rows.anchors), xywh_to_xyxy(rows.boxes_xywh), "ciou")
        box = ((1 - overlaps) * rows.weights).sum() / num_positives

        reached = self._objectness_targets(overlaps.detach(), rows, len(obj_logits))
        obj = binary_loss(obj_logits, reached, pos_weight=self.obj_pos_weight, gamma=hyp.fl_gamma).sum() / cells

        if self.num_classes == 1:
            return box, obj, box.new_zeros(()), further
        wanted = smooth_one_hot(rows.classes, self.num_classes, hyp.label_smoothing).to(asked)
        per_class = binary_loss(asked[:, 5:], wanted, pos_weight=self.cls_pos_weight, gamma=hyp.fl_gamma)
        cls = (per_class.mean(dim=1) * rows.weights).sum() / num_positives
        return box, obj, cls, further

    @staticmethod
    def _objectness_targets(overlaps: Tensor, rows: LevelTargets, num_cells: int) -> Tensor:
        """(num_cells,) the overlap reached where a target is assigned, else 0. Rows that lose write to a spare cell."""
        wins = highest_rank_wins(rows, num_cells)
        reached = overlaps.new_zeros(num_cells + 1)
        reached.scatter_(0, torch.where(wins, rows.cells, num_cells), overlaps.clamp(min=0))
        return reached[:num_cells]

    def _update_balance(self, obj: Tensor) -> None:
        """Move each level's weight towards the inverse of its loss, keeping the stride-16 level at 1."""
        moved = self.balance * AUTOBALANCE_DECAY + (1 - AUTOBALANCE_DECAY) / obj
        self.balance = moved / moved[self._reference_level]  # a new tensor: the old one is needed for gradients


def shared_batch_size(maps: Tensor) -> Tensor:
    """Images of the batch that (B, ...) maps are this process's part of, a scalar on their device."""
    return shared_sum(maps.new_full((), len(maps), dtype=torch.float32))


def level_balance(num_levels: int) -> list[float]:
    """Weight of each level's objectness, finest level first; levels past the fifth weigh like the fifth."""
    known = BALANCE_OF_THREE if num_levels == 3 else BALANCE_OF_MORE
    return [known[min(level, len(known) - 1)] for level in range(num_levels)]


class _ReadMap(torch.autograd.Function):
    """Objectness of all cells (B, na, H, W) and whole rows of some (R, no), from a raw map (B, na, H, W, no).

    As two index operations this would cost two gradients of the size of the map and their sum; written down it is
    one, in the layout of the map.
    """

    @staticmethod
    def forward(ctx: Any, level: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(level, cells)
        return level[..., 4].clone(), level[_unravel(cells, level.shape)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, objectness_grad: Tensor, rows_grad: Tensor) -> tuple[Tensor, None]:
        level, cells = ctx.saved_tensors
        grad = torch.zeros_like(level)
        grad.index_put_(_unravel(cells, level.shape), rows_grad, accumulate=True)
        grad[..., 4] += objectness_grad
        return grad, None


def _unravel(cells: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, anchor, row and column of flat indices into (B, na, H, W, ...); a map of any layout is read in place."""
    _, num_anchors, height, width, *_ = shape
    rows, planes = cells // width, cells // (width * height)
    return planes // num_anchors, planes % num_anchors, rows % height, cells % width


def _decode(logits: Tensor, anchors: Tensor) -> Tensor:
    """(R, 4+) logits -> (R, 4) xyxy in cells relative to the row's cell: xy = 2s - 0.5, wh = (2s)^2 anchor."""
    scaled = logits[:, :4].sigmoid() * 2
    return xywh_to_xyxy(torch.cat((scaled[:, :2] - 0.5, scaled[:, 2:].square() * anchors), dim=1))
