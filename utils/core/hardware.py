"""Processors and device names, without torch."""

from __future__ import annotations

import os


def named_devices(device: str) -> list[str]:
    """The devices that a `--device` value names, between commas; none for an empty value."""
    return [name.strip() for name in device.split(",") if name.strip()]


def available_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
