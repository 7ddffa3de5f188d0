"""Box operations: format conversion, IoU variants, clipping and scaling to the original image.

Functions take NumPy arrays or tensors with the four coordinates on the last axis and return the same type. Formats:
`xyxy` corners, `xywh` center and size, `ltwh` top-left corner and size, all in pixels; `xywhn` is `xywh` divided by
image width and height. Sizes are (height, width).
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from utils.core.types import Letterbox

Boxes = TypeVar("Boxes", np.ndarray, Tensor)
IoUKind = Literal["iou", "giou", "diou", "ciou"]
EPS = 1e-7


def xyxy_to_xywh(boxes_xyxy: Boxes) -> Boxes:
    """Corners to center and size."""
    near, far = boxes_xyxy[..., :2], boxes_xyxy[..., 2:4]
    return _join((near + far) / 2, far - near)


def xywh_to_xyxy(boxes_xywh: Boxes) -> Boxes:
    """Center and size to corners."""
    center, half = boxes_xywh[..., :2], boxes_xywh[..., 2:4] / 2
    return _join(center - half, center + half)


def xyxy_to_ltwh(boxes_xyxy: Boxes) -> Boxes:
    """Corners to top-left corner and size (COCO's format)."""
    near, far = boxes_xyxy[..., :2], boxes_xyxy[..., 2:4]
    return _join(near, far - near)


def xyxy_to_xywhn(boxes_xyxy: Boxes, size_hw: tuple[int, int]) -> Boxes:
    """Corners to center and size as fractions of the image; not clipped."""
    return xyxy_to_xywh(boxes_xyxy) / _row_like(boxes_xyxy, _wh_twice(size_hw))


def xywhn_to_xyxy(
    boxes_xywhn: Boxes, size_hw: tuple[float, float], *, offset_wh: tuple[float, float] = (0.0, 0.0)
) -> Boxes:
    """Normalized center and size to corners in pixels.

    Args:
        size_hw: size in pixels of the image.
        offset_wh: added to x and y, for an image inside a larger frame.
    """
    corners = xywh_to_xyxy(boxes_xywhn) * _row_like(boxes_xywhn, _wh_twice(size_hw))
    return corners + _row_like(boxes_xywhn, (*offset_wh, *offset_wh))


def box_area(boxes_xyxy: Boxes) -> Boxes:
    """Areas (...) of boxes (..., 4)."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor, kind: IoUKind = "iou", eps: float = EPS) -> Tensor:
    """IoU of box pairs or a variant of it, differentiable.

    GIoU: Rezatofighi et al. 2019, arXiv:1902.09630. DIoU and CIoU: Zheng et al. 2020, arXiv:1911.08287; the
    trade-off weight alpha of CIoU is a constant for the gradient (section 3.4).

    Args:
        a_xyxy, b_xyxy: (..., 4), same pixel frame; row i pairs with row i.
        kind: IoU is in [0, 1], GIoU and DIoU in (-1, 1], CIoU slightly lower.
        eps: avoids division by zero for empty boxes; also added to the heights.

    Returns:
        (...) values.
    """
    ax1, ay1, ax2, ay2 = a_xyxy.unbind(-1)
    bx1, by1, bx2, by2 = b_xyxy.unbind(-1)
    a_w, a_h = ax2 - ax1, ay2 - ay1 + eps
    b_w, b_h = bx2 - bx1, by2 - by1 + eps
    inter_w = torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)
    inter_h = torch.minimum(ay2, by2) - torch.maximum(ay1, by1)
    inter = inter_w.clamp(min=0) * inter_h.clamp(min=0)
    union = a_w * a_h + b_w * b_h - inter + eps
    iou = inter / union
    if kind == "iou":
        return iou

    enclosing_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    enclosing_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    if kind == "giou":
        enclosing = enclosing_w * enclosing_h + eps
        return iou - (enclosing - union) / enclosing
    center_distance = ((bx1 + bx2 - ax1 - ax2).square() + (by1 + by2 - ay1 - ay2).square()) / 4
    penalty = center_distance / (enclosing_w.square() + enclosing_h.square() + eps)
    if kind == "diou":
        return iou - penalty
    v = (4 / math.pi**2) * (torch.atan(b_w / b_h) - torch.atan(a_w / a_h)).square()
    with torch.no_grad():
        alpha = v / (1 + eps - iou + v)
    return iou - penalty - alpha * v


def box_iou_matrix(a_xyxy: Boxes, b_xyxy: Boxes, eps: float = EPS) -> Boxes:
    """Pairwise IoU (N, M) of boxes (N, 4) and (M, 4)."""
    lib: Any = torch if isinstance(a_xyxy, Tensor) else np
    near = lib.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    far = lib.minimum(a_xyxy[:, None, 2:4], b_xyxy[None, :, 2:4])
    sides = (far - near).clip(min=0)  # (N, M, 2)
    inter = sides[..., 0] * sides[..., 1]
    return inter / (box_area(a_xyxy)[:, None] + box_area(b_xyxy)[None, :] - inter + eps)


def clip_boxes_(boxes_xyxy: Boxes, size_hw: tuple[int, int]) -> Boxes:
    """Clip corners to the image, in place; columns after the fourth are unchanged."""
    height, width = size_hw
    for column, limit in enumerate((width, height, width, height)):
        values = boxes_xyxy[..., column]
        if isinstance(values, Tensor):
            values.clamp_(0, limit)
        else:
            np.clip(values, 0, limit, out=values)
    return boxes_xyxy


def scale_boxes(
    boxes_xyxy: Boxes,
    from_hw: tuple[int, int],
    to_hw: tuple[int, int],
    ratio_pad: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Boxes:
    """Convert boxes of a letterboxed frame to pixels of the original image, clipped to it.

    Args:
        from_hw: size of the letterboxed frame.
        to_hw: size of the original image.
        ratio_pad: (frame pixels per image pixel along x and y, padding left and above). By default the image fills
            the frame along one axis and is centered along the other.
    """
    if ratio_pad is None:
        sides = list(zip(from_hw, to_hw, strict=True))
        ratio = min(frame / image for frame, image in sides)
        top, left = ((frame - ratio * image) / 2 for frame, image in sides)
        ratio_pad = ((ratio, ratio), (left, top))
    return _undo_fit(boxes_xyxy, to_hw, *ratio_pad)


def undo_letterbox(boxes_xyxy: Boxes, letterbox: Letterbox) -> Boxes:
    """Convert boxes of the network input to pixels of the original image, clipped to it; further columns are kept."""
    return _undo_fit(boxes_xyxy, letterbox.original_hw, letterbox.ratio_wh, letterbox.pad_wh)


def _undo_fit(
    boxes_xyxy: Boxes, size_hw: tuple[int, int], ratio_wh: tuple[float, float], pad_wh: tuple[float, float]
) -> Boxes:
    """A copy of the rows with corners (v - pad) / ratio, clipped to `size_hw`."""
    result: Any = boxes_xyxy.clone() if isinstance(boxes_xyxy, Tensor) else boxes_xyxy.copy()
    corners = boxes_xyxy[..., :4]
    result[..., :4] = (corners - _row_like(corners, (*pad_wh, *pad_wh))) / _row_like(corners, (*ratio_wh, *ratio_wh))
    return clip_boxes_(result, size_hw)


def _join(first: Boxes, second: Boxes) -> Boxes:
    if isinstance(first, Tensor):
        return torch.cat((first, second), dim=-1)
    return np.concatenate((first, second), axis=-1)


def _wh_twice(size_hw: tuple[float, float]) -> tuple[float, float, float, float]:
    height, width = size_hw
    return (width, height, width, height)


def _row_like(boxes: Boxes, values: tuple[float, ...]) -> Boxes:
    """`values` as an array or tensor of the type, dtype and device of `boxes`."""
    if isinstance(boxes, Tensor):
        return torch.tensor(values, dtype=boxes.dtype, device=boxes.device)
    return np.asarray(values, dtype=boxes.dtype)
