from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.core import hardware
from utils.core.hardware import available_cpus, read_cpu_quota


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        pytest.param("0::/", {"cpu.max": "150000 100000\n"}, 1.5, id="version 2"),
        pytest.param("0::/", {"cpu.max": "max 100000\n"}, None, id="version 2, no limit"),
        pytest.param("0::/a/b", {"cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, 4, id="a group above"),
        pytest.param("0::/a", {"cpu.max": "400000 100000", "a/cpu.max": "50000 100000"}, 0.5, id="the smaller one"),
        pytest.param(
            "4:memory:/x\n3:cpu,cpuacct:/docker/1f\n0::/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            3,
            id="version 1 in a container, which does not see its group",
        ),
        pytest.param(
            "3:cpu:/a",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            None,
            id="version 1, none",
        ),
        pytest.param("0::/", {"cpu.max": "what?"}, None, id="unknown text"),
        pytest.param("0::/", {}, None, id="no files"),
        pytest.param("", {}, None, id="no groups"),
    ],
)
def test_quota_of_control_groups(membership: str, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    write(tmp_path / "membership", membership)
    assert read_cpu_quota(tmp_path / "cgroup", tmp_path / "membership") == quota


def test_systems_without_control_groups(tmp_path: Path) -> None:
    assert read_cpu_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(("quota", "count"), [(None, 8), (0.5, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_available_cpus_are_limited_by_the_quota(
    quota: float | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(hardware, "read_cpu_quota", lambda: quota)
    assert available_cpus() == count
