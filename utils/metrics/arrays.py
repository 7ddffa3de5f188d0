"""Metrics are worked out in NumPy, whatever their input comes in."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def as_array(values: Any) -> np.ndarray:
    """A NumPy view of an array or list, or of a tensor on any device."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
