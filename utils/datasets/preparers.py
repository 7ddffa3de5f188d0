"""Ways to make a data set appear on disk: the names that `download: builtin:NAME` may use, and plain URLs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.errors import InputError

Preparer = Callable[[Path, Mapping[str, Any]], None]
PREPARERS: dict[str, Preparer] = {}


def prepare_data(download: Any, root: Path, raw: Mapping[str, Any], *, source: Path) -> None:
    """Do what a data YAML's key `download` says; nothing in it is ever executed as code."""
    raise InputError(f"{source}: download: not possible yet")
