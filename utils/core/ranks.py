"""Rank of this process when the module was imported, from the environment that launchers set."""

from __future__ import annotations

import os

LOCAL_RANK = int(os.getenv("LOCAL_RANK", "-1"))  # -1: not launched
RANK = int(os.getenv("RANK", "-1"))
WORLD_SIZE = int(os.getenv("WORLD_SIZE", "1"))
