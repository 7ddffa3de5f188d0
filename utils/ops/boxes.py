"""Box geometry: format conversions, overlap measures, and the way back from a letterboxed frame.

Every function takes NumPy arrays or tensors with the four coordinates on the last axis and returns the same kind;
the names say the format: `xyxy` corners, `xywh` center and size, `ltwh` top-left corner and size, all in pixels;
`xywhn` is `xywh` over image width and height. Sizes are (height, width).
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from utils.core.types import Letterbox

Boxes = TypeVar("Boxes", np.ndarray, Tensor)
OverlapKind = Literal["iou", "giou", "diou", "ciou"]
EPS = 1e-7


def xyxy_to_xywh(boxes_xyxy: Boxes) -> Boxes:
    """Center and size of boxes given by corners."""
    near, far = boxes_xyxy[..., :2], boxes_xyxy[..., 2:4]
    return _join((near + far) / 2, far - near)


def xywh_to_xyxy(boxes_xywh: Boxes) -> Boxes:
    """Corners of boxes given by center and size."""
    center, half = boxes_xywh[..., :2], boxes_xywh[..., 2:4] / 2
    return _join(center - half, center + half)


def xyxy_to_ltwh(boxes_xyxy: Boxes) -> Boxes:
    """COCO's top-left corner and size of boxes given by corners."""
    near, far = boxes_xyxy[..., :2], boxes_xyxy[..., 2:4]
    return _join(near, far - near)


def ltwh_to_xyxy(boxes_ltwh: Boxes) -> Boxes:
    """Corners of boxes given in COCO's form."""
    near = boxes_ltwh[..., :2]
    return _join(near, near + boxes_ltwh[..., 2:4])


def xyxy_to_xywhn(boxes_xyxy: Boxes, size_hw: tuple[int, int]) -> Boxes:
    """Center and size as fractions of the image; not clipped."""
    return xyxy_to_xywh(boxes_xyxy) / _row_like(boxes_xyxy, _wh_twice(size_hw))


def xywhn_to_xyxy(
    boxes_xywhn: Boxes, size_hw: tuple[float, float], *, offset_wh: tuple[float, float] = (0.0, 0.0)
) -> Boxes:
    """Pixel corners of normalized boxes.

    Args:
        size_hw: pixels that the normalized range covers.
        offset_wh: added to x and y, for an image that sits inside a larger frame.
    """
    corners = xywh_to_xyxy(boxes_xywhn) * _row_like(boxes_xywhn, _wh_twice(size_hw))
    return corners + _row_like(boxes_xywhn, (*offset_wh, *offset_wh))


def box_area(boxes_xyxy: Boxes) -> Boxes:
    """(..., 4) -> (...) areas in square pixels."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor, kind: OverlapKind = "iou", eps: float = EPS) -> Tensor:
    """Overlap of box pairs, differentiable.

    IoU; GIoU (Rezatofighi et al. 2019, arXiv:1902.09630); DIoU and CIoU (Zheng et al. 2020, arXiv:1911.08287), whose
    trade-off weight alpha is a constant for the gradient, as the CIoU paper's section 3.4 has it.

    Args:
        a_xyxy, b_xyxy: (..., 4), same frame; row i of one pairs with row i of the other.
        kind: which measure; the three variants lie in (-1, 1] (CIoU a little lower), IoU in [0, 1].
        eps: keeps empty boxes from dividing by zero; also added to the heights.

    Returns:
        (...) overlaps.
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

    hull_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    if kind == "giou":
        hull = hull_w * hull_h + eps
        return iou - (hull - union) / hull
    center_gap = ((bx1 + bx2 - ax1 - ax2).square() + (by1 + by2 - ay1 - ay2).square()) / 4
    distance = center_gap / (hull_w.square() + hull_h.square() + eps)
    if kind == "diou":
        return iou - distance
    aspect = (4 / math.pi**2) * (torch.atan(b_w / b_h) - torch.atan(a_w / a_h)).square()
    with torch.no_grad():
        alpha = aspect / (1 + eps - iou + aspect)
    return iou - distance - alpha * aspect


def box_iou_matrix(a_xyxy: Boxes, b_xyxy: Boxes, eps: float = EPS) -> Boxes:
    """IoU of every box of `a` with every box of `b`: (N, 4), (M, 4) -> (N, M)."""
    lib: Any = torch if isinstance(a_xyxy, Tensor) else np
    near = lib.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    far = lib.minimum(a_xyxy[:, None, 2:4], b_xyxy[None, :, 2:4])
    sides = (far - near).clip(min=0)  # (N, M, 2)
    inter = sides[..., 0] * sides[..., 1]
    return inter / (box_area(a_xyxy)[:, None] + box_area(b_xyxy)[None, :] - inter + eps)


def clip_boxes_(boxes_xyxy: Boxes, size_hw: tuple[int, int]) -> Boxes:
    """Move corners that lie outside the image onto its border, in place; columns after the fourth stay."""
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
    """Boxes of a letterboxed frame in pixels of the image inside it, clipped to that image.

    Args:
        from_hw: size of the letterboxed frame.
        to_hw: size of the image.
        ratio_pad: (frame pixels per image pixel along x and y, padding left and above). Without it the image is
            taken to fill the frame along one axis and to be centered along the other.
    """
    if ratio_pad is None:
        sides = list(zip(from_hw, to_hw, strict=True))
        ratio = min(frame / image for frame, image in sides)
        top, left = ((frame - ratio * image) / 2 for frame, image in sides)
        ratio_pad = ((ratio, ratio), (left, top))
    return _unfit(boxes_xyxy, to_hw, *ratio_pad)


def undo_letterbox(boxes_xyxy: Boxes, letterbox: Letterbox) -> Boxes:
    """Boxes of the network input in pixels of the original image, clipped to it; further columns are carried."""
    return _unfit(boxes_xyxy, letterbox.original_hw, letterbox.ratio_wh, letterbox.pad_wh)


def _unfit(
    boxes_xyxy: Boxes, size_hw: tuple[int, int], ratio_wh: tuple[float, float], pad_wh: tuple[float, float]
) -> Boxes:
    """A copy of the rows with corners (v - pad) / ratio, clipped to `size_hw`."""
    result: Any = boxes_xyxy.clone() if isinstance(boxes_xyxy, Tensor) else boxes_xyxy.copy()
    corners = boxes_xyxy[..., :4]
    result[..., :4] = (corners - _row_like(corners, (*pad_wh, *pad_wh))) / _row_like(corners, (*ratio_wh, *ratio_wh))
    return clip_boxes_(result, size_hw)


def _join(first: Boxes, second: Boxes) -> Boxes:
    """Two (..., 2) halves side by side, (..., 4)."""
    if isinstance(first, Tensor):
        return torch.cat((first, second), dim=-1)
    return np.concatenate((first, second), axis=-1)


def _wh_twice(size_hw: tuple[float, float]) -> tuple[float, float, float, float]:
    height, width = size_hw
    return (width, height, width, height)


def _row_like(boxes: Boxes, values: tuple[float, ...]) -> Boxes:
    """`values` as an array or tensor of the boxes' kind, type and device."""
    if isinstance(boxes, Tensor):
        return torch.tensor(values, dtype=boxes.dtype, device=boxes.device)
    return np.asarray(values, dtype=boxes.dtype)
