"""Network input: uint8 images to normalized float tensors."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.core.device import single_threaded
from utils.imaging.letterbox import MAX_CHANNELS

SCALED_BYTES = (torch.arange(256) / 255).numpy()  # pixel value -> float


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of each channel, of pixels in [0, 1], by which an input is normalized."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize_(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] normalized in place; other channel counts take the average mean and std."""
        mean, std = images.new_tensor(self.mean), images.new_tensor(self.std)
        if images.shape[1] != len(mean):
            mean, std = mean.mean().view(1), std.mean().view(1)
        return images.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


IMAGENET = PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images_to_device(
    images: Tensor,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    pixels: PixelStatistics | None = None,
) -> Tensor:
    """(B, C, H, W) uint8 -> channels_last float in [0, 1] or normalized; divided on `device`, as bytes move faster."""
    images = images.to(device, non_blocking=True)
    scaled = images.to(dtype, memory_format=torch.channels_last).div_(255)
    return scaled if pixels is None else pixels.normalize_(scaled)


class InputBuffer:
    """`images_to_device` into memory that is reused from batch to batch: allocation costs more than the conversion.

    The result is overwritten by the next call, so use it for inference only.

    Args:
        has_thread_pool: the runtime has its own threads (see `utils.core.device.single_threaded`) and takes planes
            (contiguous NCHW); else it gets channels_last.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        pixels: PixelStatistics | None = None,
        *,
        has_thread_pool: bool = False,
    ) -> None:
        self.device, self.pixels, self.has_thread_pool = device, pixels, has_thread_pool
        self._uses_table = device.type == "cpu" and dtype == torch.float32
        self._memory = torch.empty(0, dtype=dtype, device=device)

    def load(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> float in [0, 1], or normalized."""
        if self._memory.numel() < images.numel():
            self._memory = self._memory.new_empty(images.numel())
        stored = _to_planes(images) if self.has_thread_pool else images.permute(0, 2, 3, 1)
        scaled = self._memory[: images.numel()].view(stored.shape)
        with single_threaded(self.has_thread_pool):
            if self._uses_table:
                _scale_by_table(stored, scaled)
            else:
                scaled.copy_(stored, non_blocking=True).div_(255)
            loaded = scaled if self.has_thread_pool else scaled.permute(0, 3, 1, 2)
            return loaded if self.pixels is None else self.pixels.normalize_(loaded)


def _to_planes(images: Tensor) -> Tensor:
    """(B, C, H, W) uint8, contiguous; on the CPU by OpenCV, five times as fast as torch for interleaved pixels."""
    if images.is_contiguous() or images.device.type != "cpu" or images.shape[1] > MAX_CHANNELS:
        return images.contiguous()
    planes = np.empty(images.shape, np.uint8)
    for frame, split in zip(images.permute(0, 2, 3, 1).numpy(), planes, strict=True):
        cv2.split(frame, list(split))
    return torch.from_numpy(planes)


def _scale_by_table(stored: Tensor, scaled: Tensor) -> None:
    """Fill `scaled` with `stored` / 255, both contiguous and of one shape, in one pass instead of two."""
    rows = (-1, stored.shape[-1])
    cv2.LUT(stored.reshape(rows).numpy(), SCALED_BYTES, dst=scaled.view(rows).numpy())
