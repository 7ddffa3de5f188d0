"""Public address of the detection loss and its parts, with their known signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.yolo import BaseModel
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.losses.assign import LevelTargets, assign_targets
from utils.losses.bce import compute_focal_weights, mix_alpha
from utils.losses.detection import DetectionLoss, get_level_balance, unravel_cells
from utils.torch_utils import de_parallel

GAINS = ("box", "obj", "cls", "anchor_t")  # hyperparameters that a loss cannot do without
OPTIONS = ("cls_pw", "obj_pw", "fl_gamma", "label_smoothing")  # neutral if they are missing
Indices = tuple[Tensor, Tensor, Tensor, Tensor]
BuiltTargets = tuple[list[Tensor], list[Tensor], list[Indices], list[Tensor]]


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:  # noqa: N802 - known name
    """Targets of positive and negative classes with label smoothing `eps`: 1 - eps / 2 and eps / 2."""
    return 1.0 - eps / 2, eps / 2


class BCEBlurWithLogitsLoss(nn.Module):
    """Mean binary cross-entropy that forgives confident predictions where the target is 0, as labels may be missing.

    A prediction p of a target t has the factor 1 - exp((p - t - 1) / alpha): nearly 1, but 0 for p = 1 and t = 0.

    Args:
        alpha: width of the range of p in which the factor falls, above 0.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"BCEBlurWithLogitsLoss: alpha {alpha} must be above 0")
        self.loss_fcn = nn.BCEWithLogitsLoss(reduction="none")
        self.alpha = alpha

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Scalar loss of logits `pred` and targets `true` of the same shape."""
        factors = -torch.expm1((pred.sigmoid() - true - 1) / self.alpha)
        return (self.loss_fcn(pred, true) * factors).mean()


class FocalLoss(nn.Module):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): a cross-entropy times alpha_t (1 - p_t)^gamma.

    Args:
        loss_fcn: `nn.BCEWithLogitsLoss`; its reduction becomes that of the product.
        gamma: exponent. alpha: weight of the positives, 1 - alpha is that of the negatives.
    """

    def __init__(self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float = 0.25) -> None:
        super().__init__()
        self.loss_fcn, self.gamma, self.alpha = loss_fcn, gamma, alpha
        self.reduction = loss_fcn.reduction
        loss_fcn.reduction = "none"

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Loss of logits `pred` and targets `true` of the same shape: a scalar, or that shape without reduction."""
        loss = self.loss_fcn(pred, true) * self._compute_weights(pred, true)
        return {"mean": loss.mean, "sum": loss.sum}.get(self.reduction, lambda: loss)()

    def _compute_weights(self, pred: Tensor, true: Tensor) -> Tensor:
        return compute_focal_weights(pred, true, gamma=self.gamma, alpha=self.alpha)


class QFocalLoss(FocalLoss):
    """Quality focal loss (Li et al. 2020, arXiv:2006.04388): a cross-entropy times alpha_t |t - p|^gamma.

    Arguments as of `FocalLoss`.
    """

    def _compute_weights(self, pred: Tensor, true: Tensor) -> Tensor:
        return mix_alpha(true, self.alpha) * (true - pred.sigmoid()).abs().pow(self.gamma)


class HeadLoss:
    """Base of the losses of a detection head.

    Args:
        model: network with `hyp`, a dictionary of hyperparameters whose gains are used as they are; it may be wrapped
            by DataParallel or DistributedDataParallel.
        autobalance: adapt the objectness weights of the levels in training.

    Attributes:
        hyp: the dictionary; changes of box, obj, cls, anchor_t, fl_gamma and label_smoothing apply to later calls.
        na, nc, nl: anchors per level, classes, levels.
        anchors: (nl, na, 2) in cells.
        balance: weight of the objectness of each level; may be set, or changed in place.
        BCEcls, BCEobj: mean cross-entropies with the weights and the focal exponent of `hyp`; cp, cn: targets of a
            class and of the others; ssi: level whose weight autobalance keeps at 1; gr: share of the IoU in the
            target of objectness; sort_obj_iou: whether the highest IoU in a cell wins. Those of this line are for
            subclasses that compute the loss themselves: other values do not change the loss of this class.

    Raises:
        InputError: `model.hyp` is not set or lacks a gain.
    """

    sort_obj_iou = False
    gr = 1.0

    def __init__(self, model: Any, autobalance: bool = False) -> None:
        network = de_parallel(model)
        head: Any = get_head(network)
        self.hyp: Mapping[str, Any] = get_hyp(network)
        self.autobalance = autobalance
        self.na, self.nc, self.nl = head.na, head.nc, head.nl
        self.anchors: Tensor = head.anchors
        self.device = head.anchors.device
        hyp = read_hyp(self.hyp)
        self._loss = DetectionLoss(
            anchors=head.anchors,
            strides=head.stride,
            num_classes=head.nc,
            hyp=hyp,
            autobalance=autobalance,
        )
        self.balance: list[float] = get_level_balance(head.nl)
        self._used_balance = list(self.balance)
        self.ssi = self._loss.reference_level if autobalance else 0
        self.cp, self.cn = smooth_BCE(hyp.label_smoothing)
        self.BCEcls = build_cross_entropy(self._loss.cls_pos_weight, hyp.fl_gamma)
        self.BCEobj = build_cross_entropy(self._loss.obj_pos_weight, hyp.fl_gamma)

    def _update_settings(self) -> None:
        """Pass `hyp` and `balance` on to the loss."""
        self._loss.hyp = read_hyp(self.hyp)
        if self.balance != self._used_balance:
            self._loss.balance = self._loss.balance.new_tensor(self.balance)
            self._used_balance = list(self.balance)

    def _read_balance(self) -> None:
        """Take the weights over that autobalance adapted."""
        if self.autobalance:
            self.balance = self._loss.balance.tolist()
            self._used_balance = list(self.balance)


class ComputeLoss(HeadLoss):
    """Detection loss of a network: box, objectness and classes (see `utils.losses.detection`).

    A subclass may replace `build_targets`: the loss is computed from what that returns.

    Arguments, attributes and errors as of `HeadLoss`.
    """

    def __call__(self, p: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of one batch.

        Args:
            p: logits (B, na, H, W, 5 + nc) of each level.
            targets: (N, 6) image index, class, x, y, w, h normalized.

        Returns:
            The loss (1,), multiplied by the batch size, and its items (3,) box, objectness and classes, detached.
        """
        self._update_settings()
        is_custom = type(self).build_targets is not ComputeLoss.build_targets
        built = join_levels(self.build_targets(p, targets), p) if is_custom else None
        result = self._loss(p, targets, assigned=built)
        self._read_balance()
        return result.total.reshape(1), torch.stack(list(result.items.values()))

    def build_targets(self, p: Sequence[Tensor], targets: Tensor) -> BuiltTargets:
        """The positives of each level.

        Args:
            p, targets: as for a call.

        Returns:
            Classes (R,), boxes (R, 4) as x, y, w, h in cells relative to the row's cell, indices (image, anchor, row,
            column) of R each, and anchors (R, 2), with a list entry per level.
        """
        return split_levels(assign_levels(self._loss, p, targets), p)


def get_head(network: Any) -> Any:
    """The detection head: the last layer, or the one that a network names."""
    return network.head if isinstance(network, BaseModel) else network.model[-1]


def get_hyp(network: Any) -> Mapping[str, Any]:
    """`hyp` of a network; InputError if it is not set."""
    hyp = getattr(network, "hyp", None)
    if not isinstance(hyp, Mapping):
        raise InputError("ComputeLoss: model.hyp is not set; set it to the hyperparameters, such as those of data/hyps")
    return hyp


def read_hyp(hyp: Mapping[str, Any]) -> Hyperparameters:
    """The hyperparameters of the loss in a dictionary; InputError if a gain is missing."""
    if missing := [name for name in GAINS if name not in hyp]:
        raise InputError(f"ComputeLoss: model.hyp lacks {', '.join(missing)}; see data/hyps/hyp.scratch-low.yaml")
    values: dict[str, Any] = {name: float(hyp[name]) for name in (*GAINS, *OPTIONS) if name in hyp}
    return Hyperparameters(**values)


def build_cross_entropy(pos_weight: Tensor, gamma: float) -> nn.Module:
    """Mean cross-entropy of logits whose positive term has the factor `pos_weight`; focal with `gamma` above 0."""
    entropy = nn.BCEWithLogitsLoss(pos_weight=pos_weight.reshape(1))
    return FocalLoss(entropy, gamma) if gamma > 0 else entropy


def assign_levels(loss: DetectionLoss, p: Sequence[Tensor], targets: Tensor) -> list[LevelTargets]:
    """The positives of each level, without padding, in the known order.

    That is: those of the cell of the center, then of the left, upper, right and lower neighbor; within these by anchor
    and target.
    """
    grids_hw = [(level.shape[2], level.shape[3]) for level in p]
    levels = assign_targets(targets.float(), loss.anchors, grids_hw, max_ratio=loss.hyp.anchor_t)
    count = max(len(targets), 1)
    ordered = []
    for rows, level in zip(levels, p, strict=True):
        _, anchors, _, _ = unravel_cells(rows.cells, level.shape)
        places, numbers = rows.priorities // count, rows.priorities % count
        keys = (places * level.shape[1] + anchors) * count + numbers
        ordered.append(rows.drop_padding().select(keys[rows.weights > 0].argsort()))
    return ordered


def split_levels(levels: Sequence[LevelTargets], p: Sequence[Tensor]) -> BuiltTargets:
    """The positives of each level as the lists that `ComputeLoss.build_targets` returns."""
    return (
        [rows.classes for rows in levels],
        [rows.boxes_xywh for rows in levels],
        [unravel_cells(rows.cells, level.shape) for rows, level in zip(levels, p, strict=True)],
        [rows.anchors for rows in levels],
    )


def join_levels(built: BuiltTargets, p: Sequence[Tensor]) -> list[LevelTargets]:
    """The positives of each level from the lists of `ComputeLoss.build_targets`; in a cell, the last row counts."""
    levels = []
    for level, classes, boxes, (images, anchors, rows, columns), sizes in zip(p, *built, strict=True):
        order = torch.arange(len(classes), device=level.device)
        _, num_anchors, height, width, *_ = level.shape
        cells = ((images * num_anchors + anchors) * height + rows) * width + columns
        weights = torch.ones_like(order, dtype=torch.float32)
        levels.append(LevelTargets(cells, order, order, classes, boxes, sizes, weights))
    return levels
