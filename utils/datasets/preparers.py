"""Ways to make a data set appear on disk: the names that `download: builtin:NAME` may use, and plain URLs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.datasets.shapes import prepare_shapes
from utils.errors import InputError

Preparer = Callable[[Path, Mapping[str, Any]], None]  # root of the data set, the YAML as read
PREPARERS: dict[str, Preparer] = {"shapes": prepare_shapes}


def prepare_data(download: Any, root: Path, raw: Mapping[str, Any], *, source: Path) -> None:
    """Do what a data YAML's key `download` says: URLs or the name of a preparer; nothing is executed as code.

    Raises:
        InputError: any other text, or what goes wrong on the way.
    """
    entries = download if isinstance(download, list) else [download]
    for entry in entries:
        kind, _, name = str(entry).strip().partition(":")
        if kind == "builtin" and name in PREPARERS:
            PREPARERS[name](root, raw)
        else:
            raise InputError(refusal(str(entry), source))


def refusal(entry: str, source: Path) -> str:
    """Why an entry of `download` is not followed, with the ways that are."""
    shown = entry.strip().splitlines()[0][:60] if entry.strip() else ""
    ways = ", ".join(f"builtin:{name}" for name in sorted(PREPARERS))
    return (
        f"{source}: download: {shown!r} is neither a URL nor one of {ways}; commands and code in a data YAML are "
        "never executed: put the data in place yourself or name a URL"
    )
