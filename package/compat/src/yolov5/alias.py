"""Modules of one package under the name of another."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class AliasFinder(MetaPathFinder):
    """Finds `alias.x.y` as the module `package.x.y`: the same module object, loaded once.

    Args:
        alias, package: names of packages.
        own: names of modules that the alias has itself.
    """

    def __init__(self, alias: str, package: str, own: Sequence[str] = ()) -> None:
        self.alias, self.package = f"{alias}.", f"{package}."
        self.own = frozenset(self.alias + name for name in own)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of the alias; None for any other."""
        if not fullname.startswith(self.alias) or fullname in self.own:
            return None
        name = self.package + fullname.removeprefix(self.alias)
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            return None
        return ModuleSpec(fullname, AliasLoader(name)) if spec else None


class AliasLoader(Loader):
    """Loads a module by importing another one.

    Args:
        name: of the other one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.spec: Any = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The other module."""
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the spec, which the import system has replaced; the module has been executed under its own name."""
        module.__spec__ = self.spec
