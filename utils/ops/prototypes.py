"""Instance masks as prototypes and mask coefficients, and their decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.core.types import Letterbox
from utils.ops.boxes import undo_letterbox
from utils.ops.masks import ObjectMasks

DENSE_PIXELS = 1 << 24  # total pixels of the masks that are processed at a time


@dataclass(frozen=True)
class PrototypeMasks:
    """Masks of n detections of one image as prototypes and mask coefficients, decoded on request.

    A mask is sigmoid(coefficients @ prototypes) > 0.5 inside the detection's box (YOLACT, arXiv:1904.02689).

    Attributes:
        prototypes: (C, h, w), covering the whole network input.
        coefficients: (n, C).
        boxes_xyxy: (n, 4) in pixels of the network input.
        input_hw: size of the network input.
    """

    prototypes: Tensor
    coefficients: Tensor
    boxes_xyxy: Tensor
    input_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.coefficients)

    def select(self, rows: Tensor | np.ndarray) -> PrototypeMasks:
        """The masks of some detections, selected by indices or a bool mask."""
        rows = torch.as_tensor(rows).to(self.coefficients.device)
        boxes = self.boxes_xyxy[rows.to(self.boxes_xyxy.device)]
        return replace(self, coefficients=self.coefficients[rows], boxes_xyxy=boxes)

    @property
    def gain_wh(self) -> tuple[float, float]:
        """Cells of the prototypes per pixel of the network input."""
        height, width = self.prototypes.shape[1:]
        return width / self.input_hw[1], height / self.input_hw[0]

    def to_prototype_size(self) -> Tensor:
        """Masks (n, h, w) bool at the resolution of the prototypes, on their device."""
        height, width = self.prototypes.shape[1:]
        flat = self.prototypes.float().flatten(1)
        masks = torch.zeros(len(self), height, width, dtype=torch.bool, device=flat.device)
        count = max(1, DENSE_PIXELS // max(height * width, 1))
        boxes = self.boxes_xyxy.to(flat) * flat.new_tensor(self.gain_wh * 2)
        x, y = torch.arange(width, device=flat.device), torch.arange(height, device=flat.device)
        for start in range(0, len(self), count):
            rows = slice(start, start + count)
            x1, y1, x2, y2 = boxes[rows, :, None].unbind(1)  # (k, 1) each
            inside = ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None]
            logits = (self.coefficients[rows].to(flat) @ flat).view(-1, height, width)
            torch.logical_and(logits > 0, inside, out=masks[rows])
        return masks

    def to_input(self) -> ObjectMasks:
        """Masks in pixels of the network input: cropped to the box at prototype size, upsampled, thresholded."""
        gain = np.array(self.gain_wh * 2)
        limits = np.array(self.prototypes.shape[:0:-1])
        crops = _covered_pixels(self._boxes() * gain, limits)
        windows = np.rint(crops / gain).astype(np.int64)
        return self._decode(self.input_hw, windows, self.gain_wh, (0.0, 0.0), crops)

    def to_original(self, fit: Letterbox) -> ObjectMasks:
        """Masks in pixels of the original image: upsampled, thresholded, cropped to the box."""
        boxes = undo_letterbox(self._boxes(), fit)
        windows = _covered_pixels(boxes, np.array(fit.original_hw[::-1]))
        gain_x, gain_y = self.gain_wh
        gains = (fit.ratio_wh[0] * gain_x, fit.ratio_wh[1] * gain_y)
        return self._decode(fit.original_hw, windows, gains, (fit.pad_wh[0] * gain_x, fit.pad_wh[1] * gain_y), None)

    def _boxes(self) -> np.ndarray:
        return self.boxes_xyxy.detach().cpu().double().numpy()

    def _decode(
        self,
        size_hw: tuple[int, int],
        windows: np.ndarray,
        gain_wh: tuple[float, float],
        shift_wh: tuple[float, float],
        crops: np.ndarray | None,
    ) -> ObjectMasks:
        """Masks in a frame; frame coordinates times gain plus shift are prototype coordinates.

        Args:
            windows: (n, 4) xyxy in whole pixels of the frame, to decode.
            crops: (n, 4) xyxy in whole prototype cells, outside of which masks are empty; or None.
        """
        prototypes = self.prototypes.detach().float().cpu().numpy()
        coefficients = self.coefficients.detach().float().cpu().numpy()
        limits_wh = prototypes.shape[:0:-1]
        bitmaps = []
        for number, (window, mask_coefficients) in enumerate(zip(windows.tolist(), coefficients, strict=True)):
            x1, y1, x2, y2 = window
            if x1 >= x2 or y1 >= y2:
                bitmaps.append(np.zeros((max(y2 - y1, 0), max(x2 - x1, 0)), bool))
                continue
            (left, right), (top, bottom) = (
                _cells_below(window[axis], window[axis + 2], gain_wh[axis], shift_wh[axis], limits_wh[axis])
                for axis in (0, 1)
            )
            patch = mask_coefficients @ prototypes[:, top:bottom, left:right].reshape(len(prototypes), -1)
            patch = _sigmoid(patch).reshape(bottom - top, right - left)
            if crops is not None:
                patch = _zero_outside(patch, crops[number] - (left, top, left, top))
            probabilities = _resample(patch, window, gain_wh, (shift_wh[0] - left, shift_wh[1] - top))
            bitmaps.append(probabilities > 0.5)
        return ObjectMasks(size_hw, windows, bitmaps)


def split_masks(rows: Tensor, prototypes: Tensor, input_hw: tuple[int, int]) -> tuple[Tensor, PrototypeMasks]:
    """Split the detections of one image into boxes (n, 6) and masks.

    Args:
        rows: (n, 6 + C) from NMS: x1, y1, x2, y2 in pixels of the network input, score, class, coefficients.
        prototypes: (C, h, w).
        input_hw: size of the network input.
    """
    return rows[:, :6], PrototypeMasks(prototypes.float(), rows[:, 6:], rows[:, :4], input_hw)


def get_prototypes(preds: Any) -> Tensor | None:
    """Prototypes (B, C, h, w) in the output of a network in evaluation mode, (rows, prototypes, ...); None without."""
    second = preds[1] if isinstance(preds, list | tuple) and len(preds) > 1 else None
    return second if isinstance(second, Tensor) and second.ndim == 4 else None


def _covered_pixels(boxes_xyxy: np.ndarray, limits_wh: np.ndarray) -> np.ndarray:
    """Whole pixels (n, 4) int64 xyxy of boxes: start <= k < end along both axes, inside the frame."""
    corners = np.ceil(boxes_xyxy).reshape(-1, 2, 2)
    return np.clip(corners, 0, limits_wh).reshape(-1, 4).astype(np.int64)


def _cells_below(start: int, end: int, gain: float, shift: float, limit: int) -> tuple[int, int]:
    """Range of the cells along an axis that bilinear sampling of a pixel interval needs."""
    first = int(np.floor((start + 0.5) * gain + shift - 0.5))
    last = int(np.ceil((end - 0.5) * gain + shift - 0.5))
    first = min(max(first, 0), limit - 1)
    return first, max(first, min(last, limit - 1)) + 1


def _zero_outside(patch: np.ndarray, crop_xyxy: np.ndarray) -> np.ndarray:
    """Set all but a rectangle of the patch to 0."""
    x1, y1, x2, y2 = np.maximum(crop_xyxy, 0).tolist()
    result = np.zeros_like(patch)
    result[y1:y2, x1:x2] = patch[y1:y2, x1:x2]
    return result


def _resample(
    patch: np.ndarray, window_xyxy: Sequence[int], gain_wh: tuple[float, float], shift_wh: tuple[float, float]
) -> np.ndarray:
    """Sample a patch bilinearly at the pixel centers of a window; edges repeat. x in the patch is x * gain + shift."""
    x1, y1, x2, y2 = window_xyxy
    (gain_x, gain_y), (shift_x, shift_y) = gain_wh, shift_wh
    to_patch = np.array(
        [
            [gain_x, 0.0, (x1 + 0.5) * gain_x + shift_x - 0.5],
            [0.0, gain_y, (y1 + 0.5) * gain_y + shift_y - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(patch, to_patch, (x2 - x1, y2 - y1), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)


def mask_iou_matrix(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Pairwise IoU (n, m) float32 of masks (n, h, w) and (m, h, w), both bool."""
    flat_b = b.flatten(1).float()
    areas_b = flat_b.sum(dim=1)
    count = max(1, DENSE_PIXELS // max(flat_b.shape[1], 1))
    parts = []
    for part in a.flatten(1).split(count):
        flat_a = part.float()
        inter = flat_a @ flat_b.T
        parts.append(inter / (flat_a.sum(dim=1)[:, None] + areas_b - inter + eps))
    return torch.cat(parts) if parts else flat_b.new_zeros(0, len(b))
