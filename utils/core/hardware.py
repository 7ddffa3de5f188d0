"""CPUs and device names, without importing torch."""

from __future__ import annotations

import os


def parse_devices(device: str) -> list[str]:
    """The comma-separated devices of a `--device` value."""
    return [name.strip() for name in device.split(",") if name.strip()]


def available_cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
