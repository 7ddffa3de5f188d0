"""Value types of flags, for argparse: they parse the text and check the range."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def int_at_least(minimum: int) -> Callable[[str], int]:
    """The type of integers of at least `minimum`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} must be at least {minimum}")
        return value

    parse.__name__ = "int"  # argparse shows it for text that is not an integer
    return parse


positive_int, not_negative_int = int_at_least(1), int_at_least(0)


def seed_value(text: str) -> int:
    """A seed for the generators of PyTorch and NumPy."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} must be between 0 and {2**32 - 1}")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} must be between 0 and 1")
    return value


def overlap_fraction(text: str) -> float:
    """A number from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value:g} must be at least 0 and below 1")
    return value


def parse_points(text: str, minimum: int, maximum: int | None = None) -> list[float]:
    """The numbers of points `x1,y1,x2,y2,...`; ArgumentTypeError if they are not `minimum` to `maximum` points."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    count, is_even = len(values) // 2, len(values) % 2 == 0
    if (
        not is_even
        or count < minimum
        or (maximum is not None and count > maximum)
        or not all(map(math.isfinite, values))
    ):
        wanted = f"{minimum} points" if minimum == maximum else f"at least {minimum} points"
        raise argparse.ArgumentTypeError(f"{text!r}: expected {wanted} as x1,y1,x2,y2,... in pixels")
    return values


def line_points(text: str) -> str:
    """The two points of a line, checked."""
    return text if parse_points(text, 2, 2) else ""


def zone_points(text: str) -> str:
    """The points of a polygon, checked."""
    return text if parse_points(text, 3) else ""


def not_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} must be a finite number of at least 0")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value:g} must be a finite number above 0")
    return value
