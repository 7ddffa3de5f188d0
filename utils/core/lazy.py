"""Lazy exports of a module."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that imports names of other modules on first access.

    It serves addresses that other programs import, but that belong to higher layers.

    Args:
        module: `__name__` of the module.
        names: name to the module that defines it.
    """

    def get_attribute(name: str) -> Any:
        if name in names:
            return getattr(importlib.import_module(names[name]), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get_attribute
