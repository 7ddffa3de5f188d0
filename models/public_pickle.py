"""Writer of checkpoints with networks as pickled modules, the format of the original YOLOv5."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from utils.core.files import atomic_write
from utils.core.lazy import PACKAGE

PythonPickler: Any = pickle._Pickler  # the C one has no method for references


class PublicPickler(PythonPickler):
    """A pickler that names classes as in a checkout (`models.yolo.Detect`), also in the installed package."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Write a reference to a class or function."""
        module = getattr(obj, "__module__", None) or ""
        if not PACKAGE or not module.startswith(PACKAGE):
            super().save_global(obj, name)
            return
        address = f"c{module.removeprefix(PACKAGE)}\n{name or obj.__qualname__}\n"
        self.write(address.encode("ascii"))
        self.memoize(obj)


def save_pickle(target: str | Path, content: Mapping[str, Any]) -> Path:
    """Write a checkpoint with networks as pickled modules, atomically; returns its path."""
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        torch.save(dict(content), file, pickle_module=SimpleNamespace(__name__="pickle", Pickler=PublicPickler))
    return Path(target)
