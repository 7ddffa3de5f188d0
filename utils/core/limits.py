"""Limits on what an input file may ask for, so that a damaged or hostile one cannot exhaust the machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from utils.core.errors import InputError

NO_LIMITS = "YOLOv5_NO_LIMITS"  # environment variable, which child processes inherit
REMEDY = "use --no-limits if you trust the file"


def are_limits_on() -> bool:
    """Whether limits apply; `--no-limits` or the environment variable YOLOv5_NO_LIMITS=1 lifts them."""
    return os.getenv(NO_LIMITS, "").strip().lower() not in ("1", "true", "yes")


def check_limit(place: object, what: str, value: float, limit: float) -> None:
    """Raise InputError if a value is over its limit, unless limits are lifted.

    Args:
        place: file, with line or key if known.
        what: the quantity with its unit, such as "pixels".
    """
    if excess := describe_excess(what, value, limit):
        raise InputError(f"{place}: {excess}")


def describe_excess(what: str, value: float, limit: float) -> str | None:
    """A message that a value is over its limit; None if it is not, or if limits are lifted."""
    if value <= limit or not are_limits_on():
        return None
    return f"{value:,.0f} {what}, the limit is {limit:,.0f}; {REMEDY}"


class LiftLimits(argparse.Action):
    """Action of `--no-limits`: lifts the limits of this process and of those that it starts."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        os.environ[NO_LIMITS] = "1"
