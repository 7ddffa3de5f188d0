"""Rank of this process when the module was imported, from the environment that launchers set."""

from __future__ import annotations

import os


def read_rank(variable: str, without_launcher: int) -> int:
    """The number in an environment variable, or the one of a process that no launcher started."""
    text = os.environ.get(variable, "")
    return int(text) if text else without_launcher


RANK, LOCAL_RANK = read_rank("RANK", -1), read_rank("LOCAL_RANK", -1)
WORLD_SIZE = read_rank("WORLD_SIZE", 1)
