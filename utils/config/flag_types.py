"""What the values of flags may be: types for argparse, which take the text and raise for a value out of range."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def int_from(least: int) -> Callable[[str], int]:
    """An integer of at least `least`."""

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is not at least {least}")
        return value

    read.__name__ = "int"  # what argparse calls it for text that is no integer
    return read


positive_int, not_negative_int = int_from(1), int_from(0)


def seed_number(text: str) -> int:
    """What PyTorch's and NumPy's generators both take."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is outside 0-{2**32 - 1}")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is outside 0-1")
    return value


def not_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not a number of at least 0")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value:g} is not a number above 0")
    return value
