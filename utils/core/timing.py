"""Timer of blocks and functions."""

from __future__ import annotations

import time
from contextlib import ContextDecorator
from typing import Self

import torch


class Profile(ContextDecorator):
    """Timer of a block or a decorated function; it synchronizes CUDA, and `device` is ignored.

    Attributes:
        t: total seconds.
        dt: seconds of the last use.
    """

    def __init__(self, t: float = 0.0, device: torch.device | None = None) -> None:
        self.t, self.dt, self.start = t, 0.0, 0.0

    def __enter__(self) -> Self:
        self.start = self.time()
        return self

    def __exit__(self, *_: object) -> None:
        self.dt = self.time() - self.start
        self.t += self.dt

    def time(self) -> float:
        """Seconds of a monotonic clock, after synchronizing CUDA."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    @classmethod
    def of(cls, seconds: float) -> Self:
        """A timer after one use of so many seconds."""
        timer = cls(seconds)
        timer.dt = seconds
        return timer
