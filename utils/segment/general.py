"""Public address of mask operations, with their known signatures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.ops.prototypes import mask_iou_matrix

MAX_CV_CHANNELS = 128  # of a cv2 array, since OpenCV 5
THRESHOLD = 0.5  # probability from which a pixel belongs to the object


def crop_mask(masks: Tensor, boxes: Tensor) -> Tensor:
    """Masks (n, h, w) set to 0 outside of their boxes (n, 4) xyxy in pixels: inside is start <= k < end."""
    _, height, width = masks.shape
    x1, y1, x2, y2 = boxes[:, :4, None, None].unbind(1)  # (n, 1, 1) each
    x = torch.arange(width, device=masks.device)
    y = torch.arange(height, device=masks.device)[:, None]
    return masks * ((x >= x1) & (x < x2) & (y >= y1) & (y < y2))


def process_mask_upsample(protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Masks (n, H, W) of detections at the size of the network input, cropped after they are resized.

    Args:
        protos: (nm, h, w) prototypes.
        masks_in: (n, nm) mask coefficients.
        bboxes: (n, 4) xyxy in pixels of the network input.
        shape: (H, W) of the network input.

    Returns:
        0 and 1, float32 or finer.
    """
    return _binarize(crop_mask(_resize(_decode(protos, masks_in), shape), bboxes))


def process_mask(
    protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int], upsample: bool = False
) -> Tensor:
    """Masks of detections, cropped at the size of the prototypes.

    Args:
        protos, masks_in, bboxes, shape: as for `process_mask_upsample`.
        upsample: resize the masks to `shape`.

    Returns:
        (n, h, w), or (n, H, W) with `upsample`: 0 and 1, in the type of the coefficients.
    """
    gain_x, gain_y = protos.shape[2] / shape[1], protos.shape[1] / shape[0]
    masks = crop_mask(_decode(protos, masks_in), bboxes[:, :4] * bboxes.new_tensor([gain_x, gain_y, gain_x, gain_y]))
    return _binarize(_resize(masks, shape) if upsample else masks)


def process_mask_native(protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Masks (n, H, W) of detections at the size of the original image.

    Args:
        protos, masks_in: as for `process_mask_upsample`; the image is letterboxed in the middle of the prototypes.
        bboxes: (n, 4) xyxy in pixels of the original image.
        shape: (H, W) of the original image.

    Returns:
        0 and 1, float32 or finer.
    """
    rows, columns = _find_image(protos.shape[1:], shape)
    masks = _resize(_decode(protos, masks_in)[:, rows, columns], shape)
    return _binarize(crop_mask(masks, bboxes))


def scale_image(
    im1_shape: Sequence[int],
    masks: np.ndarray,
    im0_shape: Sequence[int],
    ratio_pad: tuple[tuple[float, ...], tuple[float, float]] | None = None,
) -> np.ndarray:
    """Masks (h, w, n) or (h, w) of a letterboxed frame as (H, W, n) of the original image, resized bilinearly.

    Args:
        im1_shape: (h, w) of the frame. im0_shape: (H, W, ...) of the image.
        ratio_pad: ((ratio, ...), (left, top padding)); by default the image is in the middle of the frame.
    """
    height, width = im0_shape[:2]
    masks = masks[:, :, None] if masks.ndim == 2 else masks
    if (masks.shape[0], masks.shape[1]) == (height, width):
        return masks
    if ratio_pad is None:
        rows, columns = _find_image(im1_shape, im0_shape)
    else:
        left, top = ratio_pad[1]
        rows = slice(int(top), int(im1_shape[0] - top))
        columns = slice(int(left), int(im1_shape[1] - left))
    masks = masks[rows, columns]
    parts = [masks[..., i : i + MAX_CV_CHANNELS] for i in range(0, masks.shape[2], MAX_CV_CHANNELS)]
    resized = [cv2.resize(part, (width, height)).reshape(height, width, -1) for part in parts]
    return np.concatenate(resized, axis=2) if resized else np.zeros((height, width, 0), masks.dtype)


def mask_iou(mask1: Tensor, mask2: Tensor, eps: float = 1e-7) -> Tensor:
    """Pairwise IoU (N, M) of flat masks (N, pixels) and (M, pixels)."""
    return mask_iou_matrix(mask1, mask2, eps)


def masks_iou(mask1: Tensor, mask2: Tensor, eps: float = 1e-7) -> Tensor:
    """IoU (N,) of pairs of flat masks, both (N, pixels)."""
    first, second = mask1.float(), mask2.float()
    inter = (first * second).sum(dim=1)
    return inter / (first.sum(dim=1) + second.sum(dim=1) - inter + eps)


def masks2segments(masks: Tensor, strategy: str = "largest") -> list[np.ndarray]:
    """Outline (k, 2) float32 of each mask (n, h, w), x and y of border pixels; (0, 2) for an empty mask.

    Args:
        strategy: `largest` takes the outline with the most points, `concat` all of them.
    """
    if strategy not in ("largest", "concat"):
        raise ValueError(f"masks2segments: strategy {strategy!r}; use 'largest' or 'concat'")
    segments = []
    for bitmap in masks.detach().cpu().numpy().astype(np.uint8):
        contours, _ = cv2.findContours(bitmap, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outlines = [contour.reshape(-1, 2) for contour in contours]
        if strategy == "largest":
            outlines = sorted(outlines, key=len, reverse=True)[:1]
        segments.append(np.concatenate([np.zeros((0, 2), np.int32), *outlines]).astype(np.float32))
    return segments


def _decode(protos: Tensor, coefficients: Tensor) -> Tensor:
    """Probabilities (n, h, w), float32 or finer."""
    dtype = torch.promote_types(coefficients.dtype, torch.float32)
    return torch.einsum("nc,chw->nhw", coefficients.to(dtype), protos.to(dtype)).sigmoid()


def _resize(masks: Tensor, shape: Sequence[int]) -> Tensor:
    size_hw = (int(shape[0]), int(shape[1]))
    if not len(masks):
        return masks.new_zeros(0, *size_hw)
    return F.interpolate(masks[None], size_hw, mode="bilinear", align_corners=False)[0]


def _binarize(masks: Tensor) -> Tensor:
    return (masks > THRESHOLD).to(masks.dtype)


def _find_image(frame_hw: Sequence[int], image_hw: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of a frame that an image covers which is letterboxed in its middle."""
    sides = list(zip(frame_hw[:2], image_hw[:2], strict=True))
    ratio = min(frame / image for frame, image in sides)
    pads = [(frame - image * ratio) / 2 for frame, image in sides]
    rows, columns = (slice(int(pad), int(frame - pad)) for pad, (frame, _) in zip(pads, sides, strict=True))
    return rows, columns
