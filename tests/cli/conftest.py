"""Fixtures of tests that run the scripts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a file system: {error}")
    if result.returncode:
        pytest.skip(f"cannot mount a file system: {result.stderr.strip()} (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
