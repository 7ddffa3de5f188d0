"""Imports of this project's modules by name, on demand."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

PACKAGE = __name__.removesuffix("utils.core.lazy")  # "" in a checkout, "openyolov5." in the installed package


def import_project_module(name: str) -> ModuleType:
    """Import a module of this project by its name in a checkout, such as "utils.tasks.detect"."""
    return importlib.import_module(PACKAGE + name)


def lazy_exports(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that imports names of other modules on first access.

    It serves addresses that other programs import, but that belong to higher layers.

    Args:
        module: `__name__` of the module.
        names: name to the module that defines it, by its name in a checkout.
    """

    def get_attribute(name: str) -> Any:
        if name in names:
            return getattr(import_project_module(names[name]), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get_attribute
