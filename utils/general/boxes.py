"""Boxes and segments: conversion, scaling, clipping, IoU, non-maximum suppression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from utils.core.renamed import accept_renamed
from utils.ops import boxes as geometry
from utils.ops.boxes import Boxes, clip_boxes_
from utils.ops.nms import non_max_suppression

__all__ = [
    "apply_classifier",
    "bbox_iou",
    "box_iou",
    "clip_boxes",
    "clip_coords",
    "clip_segments",
    "make_divisible",
    "non_max_suppression",
    "resample_segments",
    "scale_boxes",
    "scale_coords",
    "scale_segments",
    "segment2box",
    "segments2boxes",
    "wh_iou",
    "xyn2xy",
    "xywh2xyxy",
    "xywhn2xyxy",
    "xyxy2xywh",
    "xyxy2xywhn",
]  # fmt: skip
Points = TypeVar("Points", np.ndarray, Tensor)
CLASSIFIER_SIZE, CLASSIFIER_MARGIN = 224, 1.3  # pixels; side of a crop over the longer side of its box


def make_divisible(x: float, divisor: int | Tensor) -> int:
    """Round `x` up to a multiple of `divisor`, or of the maximum of a tensor."""
    step = int(divisor.max()) if isinstance(divisor, Tensor) else divisor
    return math.ceil(x / step) * step


# -- boxes ------------------------------------------------------------------------------------------------------------


def xyxy2xywh(x: Boxes) -> Boxes:
    """Convert the first four columns from corners to center and size."""
    return _replace_boxes(x, geometry.xyxy_to_xywh(x))


def xywh2xyxy(x: Boxes) -> Boxes:
    """Convert the first four columns from center and size to corners."""
    return _replace_boxes(x, geometry.xywh_to_xyxy(x))


def xywhn2xyxy(x: Boxes, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Boxes:
    """Convert the first four columns from normalized center and size to corners in pixels, plus the padding."""
    return _replace_boxes(x, geometry.xywhn_to_xyxy(x, (h, w), offset_wh=(padw, padh)))


def xyxy2xywhn(x: Boxes, w: int = 640, h: int = 640, clip: bool = False, eps: float = 0.0) -> Boxes:
    """Convert the first four columns from corners in pixels to normalized center and size; `clip` first clips `x`."""
    if clip:
        clip_boxes_(x, (h - eps, w - eps))  # type: ignore[arg-type]
    return _replace_boxes(x, geometry.xyxy_to_xywhn(x, (h, w)))


@accept_renamed(coords="boxes")
def scale_boxes(img1_shape: Sequence[int], boxes: Boxes, img0_shape: Sequence[int], ratio_pad: Any = None) -> Boxes:
    """Map boxes from the letterboxed size `img1_shape` (h, w) to the image size `img0_shape`, in place.

    Args:
        ratio_pad: ((ratio, ...), (left, top padding)) of the letterbox; by default computed from the sizes.
    """
    transform = None if ratio_pad is None else ((ratio_pad[0][0], ratio_pad[0][0]), tuple(ratio_pad[1]))
    scaled = geometry.scale_boxes(
        boxes[..., :4], (img1_shape[0], img1_shape[1]), (img0_shape[0], img0_shape[1]), transform
    )
    boxes[..., :4] = scaled
    return boxes


@accept_renamed(img_shape="shape")
def clip_boxes(boxes: Boxes, shape: Sequence[int]) -> None:
    """Clip boxes to an image of `shape` (h, w), in place."""
    clip_boxes_(boxes, (shape[0], shape[1]))


scale_coords, clip_coords = scale_boxes, clip_boxes  # names before 7.0


def _replace_boxes(rows: Boxes, columns: Boxes) -> Boxes:
    """A copy of the rows with other boxes in the first four columns."""
    copy: Any = rows.clone() if isinstance(rows, Tensor) else np.copy(rows)
    copy[..., :4] = columns
    return copy


# -- overlap, as in release 5.0 ---------------------------------------------------------------------------------------


def bbox_iou(
    box1: Tensor, box2: Tensor, x1y1x2y2: bool = True, GIoU: bool = False, DIoU: bool = False, CIoU: bool = False,
    eps: float = geometry.EPS,
) -> Tensor:  # fmt: skip
    """IoU (n,) of one box (4,) with boxes (n, 4), or a variant of it; `utils.metrics.bbox_iou` is that of 7.0.

    Args:
        x1y1x2y2: boxes are corners; otherwise center and size.
    """
    if not x1y1x2y2:
        box1, box2 = geometry.xywh_to_xyxy(box1), geometry.xywh_to_xyxy(box2)
    kind: geometry.IoUKind = "ciou" if CIoU else "diou" if DIoU else "giou" if GIoU else "iou"
    return geometry.box_iou(box1, box2, kind, eps)


def box_iou(box1: Tensor, box2: Tensor, eps: float = geometry.EPS) -> Tensor:
    """Pairwise IoU (N, M) of boxes given by corners."""
    return geometry.box_iou_matrix(box1, box2, eps)


def wh_iou(wh1: Tensor, wh2: Tensor, eps: float = geometry.EPS) -> Tensor:
    """Pairwise IoU (N, M) of boxes with a common corner, given by width and height."""
    first, second = (torch.cat((torch.zeros_like(wh), wh), dim=1) for wh in (wh1, wh2))
    return geometry.box_iou_matrix(first, second, eps)


# -- segments: outlines of objects, arrays or tensors (n, 2) of x, y ------------------------------------------------


def xyn2xy(x: Points, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Points:
    """Convert normalized points (n, 2) to pixels of an image of width `w` and height `h`, plus the padding."""
    points: Any = x.clone() if isinstance(x, Tensor) else np.copy(x)
    points[..., 0] = w * x[..., 0] + padw
    points[..., 1] = h * x[..., 1] + padh
    return points


def segment2box(segment: np.ndarray, width: float = 640, height: float = 640) -> np.ndarray:
    """Corners (4,) of the box around the points of a segment that are inside the image; zeros if none is."""
    points = np.asarray(segment)
    inside = points[((points >= 0) & (points <= (width, height))).all(axis=1)]
    if not len(inside):
        return np.zeros(4, points.dtype)
    return np.concatenate([inside.min(axis=0), inside.max(axis=0)])


def segments2boxes(segments: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes (n, 4) as center and size around n segments."""
    corners = [np.concatenate([np.min(points, axis=0), np.max(points, axis=0)]) for points in segments]
    return xyxy2xywh(np.array(corners).reshape(-1, 4))


def resample_segments(segments: list[np.ndarray], n: int = 1000) -> list[np.ndarray]:
    """Replace each segment of the list by `n` points on its closed outline, as many on each edge."""
    for index, points in enumerate(segments):
        closed = np.concatenate([points, points[:1]])
        places, corners = np.linspace(0, len(points), n), np.arange(len(closed))
        columns = [np.interp(places, corners, closed[:, axis]) for axis in (0, 1)]
        segments[index] = np.stack(columns, axis=1).astype(np.float32)
    return segments


def scale_segments(
    img1_shape: Sequence[int],
    segments: Points,
    img0_shape: Sequence[int],
    ratio_pad: Any = None,
    normalize: bool = False,
) -> Points:
    """Map points (n, 2) from the letterboxed size `img1_shape` (h, w) to the image size `img0_shape`, in place.

    Args:
        ratio_pad: as for `scale_boxes`.
        normalize: divide by width and height of the image.
    """
    (height, width), (out_h, out_w) = img0_shape[:2], img1_shape[:2]
    if ratio_pad is None:
        gain = min(out_h / height, out_w / width)
        pad_x, pad_y = (out_w - width * gain) / 2, (out_h - height * gain) / 2
    else:
        gain, (pad_x, pad_y) = ratio_pad[0][0], ratio_pad[1]
    segments[..., 0] = (segments[..., 0] - pad_x) / gain
    segments[..., 1] = (segments[..., 1] - pad_y) / gain
    clip_segments(segments, img0_shape)
    if normalize:
        segments[..., 0] /= width
        segments[..., 1] /= height
    return segments


@accept_renamed(boxes="segments")
def clip_segments(segments: Points, shape: Sequence[int]) -> None:
    """Clip points (n, 2) to an image of `shape` (h, w), in place."""
    for axis, limit in ((0, shape[1]), (1, shape[0])):
        segments[..., axis] = segments[..., axis].clip(0, limit)


# -- second stage -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def apply_classifier(
    x: list[Tensor], model: nn.Module, img: Tensor, im0: np.ndarray | Sequence[np.ndarray]
) -> list[Tensor]:
    """Keep the detections whose class a second network confirms on their crops.

    Args:
        x: per image (n, 6) detections in pixels of the network input; the list is changed.
        model: classifier of (n, 3, 224, 224) RGB crops in [0, 1] with the same classes.
        img: (B, 3, H, W) network input.
        im0: original images, BGR.
    """
    images = [im0] if isinstance(im0, np.ndarray) else im0
    for index, detections in enumerate(x):
        if detections is None or not len(detections):
            continue
        image = images[index]
        boxes = geometry.xyxy_to_xywh(
            scale_boxes(img.shape[2:], detections[:, :4].clone(), (image.shape[0], image.shape[1]))
        )
        boxes[:, 2:] = CLASSIFIER_MARGIN * boxes[:, 2:].amax(dim=1, keepdim=True).clamp(min=1)
        crops = [_crop(image, corners) for corners in geometry.xywh_to_xyxy(boxes).round().long().tolist()]
        batch = np.ascontiguousarray(np.stack(crops)[..., ::-1].transpose(0, 3, 1, 2), np.float32) / 255
        labels = model(torch.from_numpy(batch).to(detections.device)).argmax(dim=1)
        x[index] = detections[labels == detections[:, 5].long()]
    return x


def _crop(image: np.ndarray, corners: Sequence[int]) -> np.ndarray:
    """The part of an image within integer corners, at least one pixel, at the size of the classifier."""
    x1, y1 = (min(max(corner, 0), side - 1) for corner, side in zip(corners, image.shape[1::-1], strict=False))
    return cv2.resize(image[y1 : max(corners[3], y1 + 1), x1 : max(corners[2], x1 + 1)], (CLASSIFIER_SIZE,) * 2)
