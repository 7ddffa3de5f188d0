"""Instance masks as a network gives them, prototypes and coefficients, decoded as finely as they are wanted."""

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

DENSE_PIXELS = 1 << 24  # pixels of all masks together that are worked on at a time


@dataclass(frozen=True)
class CodedMasks:
    """Masks of one image's n detections as a network gives them: decoded where, and as fine as, they are wanted.

    A mask is sigmoid(coefficients x prototypes) above one half, inside the detection's box (YOLACT, arXiv:1904.02689).

    Attributes:
        prototypes: (C, h, w) over the whole network input.
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

    def select(self, rows: Tensor | np.ndarray) -> CodedMasks:
        """The masks of some detections: positions, or a bool for each."""
        chosen = torch.as_tensor(rows).to(self.coefficients.device)
        boxes = self.boxes_xyxy[chosen.to(self.boxes_xyxy.device)]
        return replace(self, coefficients=self.coefficients[chosen], boxes_xyxy=boxes)

    @property
    def gain_wh(self) -> tuple[float, float]:
        """Cells of the prototypes per pixel of the network input."""
        height, width = self.prototypes.shape[1:]
        return width / self.input_hw[1], height / self.input_hw[0]

    def at_prototypes(self) -> Tensor:
        """(n, h, w) bool at the resolution of the prototypes, on their device."""
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

    def in_input(self) -> ObjectMasks:
        """Masks in pixels of the network input: cut at the box in the prototypes, then enlarged, then thresholded."""
        gain = np.array(self.gain_wh * 2)
        limits = np.array(self.prototypes.shape[:0:-1])
        cells = _covered(self._boxes() * gain, limits)
        places = np.rint(cells / gain).astype(np.int64)
        return self._decode(self.input_hw, places, self.gain_wh, (0.0, 0.0), cells)

    def in_original(self, fit: Letterbox) -> ObjectMasks:
        """Masks in pixels of the original image: enlarged first, then thresholded and cut at the box."""
        boxes = undo_letterbox(self._boxes(), fit)
        places = _covered(boxes, np.array(fit.original_hw[::-1]))
        gain_x, gain_y = self.gain_wh
        gains = (fit.ratio_wh[0] * gain_x, fit.ratio_wh[1] * gain_y)
        return self._decode(fit.original_hw, places, gains, (fit.pad_wh[0] * gain_x, fit.pad_wh[1] * gain_y), None)

    def _boxes(self) -> np.ndarray:
        return self.boxes_xyxy.detach().cpu().double().numpy()

    def _decode(
        self,
        size_hw: tuple[int, int],
        places: np.ndarray,
        gain_wh: tuple[float, float],
        shift_wh: tuple[float, float],
        cells: np.ndarray | None,
    ) -> ObjectMasks:
        """Masks in a frame whose x and y times the gains plus the shifts are those of the prototypes.

        Args:
            places: (n, 4) whole pixels of the frame to decode.
            cells: (n, 4) whole cells of the prototypes outside of which a mask is empty, or None.
        """
        prototypes = self.prototypes.detach().float().cpu().numpy()
        coefficients = self.coefficients.detach().float().cpu().numpy()
        limits_wh = prototypes.shape[:0:-1]
        bitmaps = []
        for number, (place, code) in enumerate(zip(places.tolist(), coefficients, strict=True)):
            x1, y1, x2, y2 = place
            if x1 >= x2 or y1 >= y2:
                bitmaps.append(np.zeros((max(y2 - y1, 0), max(x2 - x1, 0)), bool))
                continue
            (left, right), (top, bottom) = (
                _cells_under(place[axis], place[axis + 2], gain_wh[axis], shift_wh[axis], limits_wh[axis])
                for axis in (0, 1)
            )
            patch = code @ prototypes[:, top:bottom, left:right].reshape(len(code), -1)
            patch = _sigmoid(patch).reshape(bottom - top, right - left)
            if cells is not None:
                patch = _cut(patch, cells[number] - (left, top, left, top))
            shares = _resample(patch, place, gain_wh, (shift_wh[0] - left, shift_wh[1] - top))
            bitmaps.append(shares > 0.5)
        return ObjectMasks(size_hw, places, bitmaps)


def split_masks(rows: Tensor, prototypes: Tensor, input_hw: tuple[int, int]) -> tuple[Tensor, CodedMasks]:
    """Boxes (n, 6) and masks of one image from what NMS leaves of it.

    Args:
        rows: (n, 6 + C) x1, y1, x2, y2 in pixels of the network input, score, class, coefficients.
        prototypes: (C, h, w).
        input_hw: size of the network input.
    """
    return rows[:, :6], CodedMasks(prototypes.float(), rows[:, 6:], rows[:, :4], input_hw)


def prototypes_of(preds: Any) -> Tensor | None:
    """(B, C, h, w) of the output of a network in evaluation mode, which follow the decoded rows; None without masks."""
    second = preds[1] if isinstance(preds, list | tuple) and len(preds) > 1 else None
    return second if isinstance(second, Tensor) and second.ndim == 4 else None


def _covered(boxes_xyxy: np.ndarray, limits_wh: np.ndarray) -> np.ndarray:
    """(n, 4) int64: the pixels k with start <= k < end along both axes, inside the frame."""
    corners = np.ceil(boxes_xyxy).reshape(-1, 2, 2)
    return np.clip(corners, 0, limits_wh).reshape(-1, 4).astype(np.int64)


def _cells_under(start: int, end: int, gain: float, shift: float, limit: int) -> tuple[int, int]:
    """The cells of an axis between whose centers the pixels of an interval lie, one more on each side."""
    first = int(np.floor((start + 0.5) * gain + shift - 0.5))
    last = int(np.ceil((end - 0.5) * gain + shift - 0.5))
    first = min(max(first, 0), limit - 1)
    return first, max(first, min(last, limit - 1)) + 1


def _cut(patch: np.ndarray, cells_xyxy: np.ndarray) -> np.ndarray:
    """The patch with all but a rectangle set to 0."""
    x1, y1, x2, y2 = np.maximum(cells_xyxy, 0).tolist()
    kept = np.zeros_like(patch)
    kept[y1:y2, x1:x2] = patch[y1:y2, x1:x2]
    return kept


def _resample(
    patch: np.ndarray, place_xyxy: Sequence[int], gain_wh: tuple[float, float], shift_wh: tuple[float, float]
) -> np.ndarray:
    """Bilinear values at the pixel centers of a place; x in the patch is x gain + shift, its edges repeat."""
    x1, y1, x2, y2 = place_xyxy
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
    """1 / (1 + exp(-x)) without overflow: the hyperbolic tangent in another scale."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)


def mask_iou_matrix(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """IoU of every mask of `a` with every mask of `b`: (n, h, w), (m, h, w) bool -> (n, m) float32."""
    flat_b = b.flatten(1).float()
    areas_b = flat_b.sum(dim=1)
    count = max(1, DENSE_PIXELS // max(flat_b.shape[1], 1))
    parts = []
    for part in a.flatten(1).split(count):
        flat_a = part.float()
        inter = flat_a @ flat_b.T
        parts.append(inter / (flat_a.sum(dim=1)[:, None] + areas_b - inter + eps))
    return torch.cat(parts) if parts else flat_b.new_zeros(0, len(b))
