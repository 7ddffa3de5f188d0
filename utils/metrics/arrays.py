"""Conversion to NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def to_numpy(values: Any) -> np.ndarray:
    """Convert a list, an array or a tensor on any device to NumPy, without a copy where possible."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
