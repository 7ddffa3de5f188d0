"""CPUs and device names, without importing torch."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def parse_devices(device: str) -> list[str]:
    """The comma-separated devices of a `--device` value."""
    return [name.strip() for name in device.split(",") if name.strip()]


def available_cpus() -> int:
    """Number of CPUs that this process may use: at most its quota of CPU time, rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_cpu_quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def read_cpu_quota(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> float | None:
    """CPUs that the control groups of this process allow, such as 1.5 in a container; None if there is no limit.

    Reads `cpu.max` of version 2, and `cpu.cfs_quota_us` over `cpu.cfs_period_us` of version 1, of the process's group
    and the groups above it (https://docs.kernel.org/admin-guide/cgroup-v2.html).
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # not Linux
        return None
    quotas = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or "cpu" in controllers.split(","):
            top = root if number == "0" else root / controllers
            group = top / path.lstrip("/")
            for folder in (group, *group.parents):
                quotas.append(_read_group_quota(folder))
                if folder == top:
                    break
    return min((quota for quota in quotas if quota is not None), default=None)


def _read_group_quota(folder: Path) -> float | None:
    """The quota of one control group; None for no limit, or in a container that does not see the group."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            if int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # missing, or "max"
            continue
    return None
