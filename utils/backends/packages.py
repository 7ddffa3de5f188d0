"""Optional packages and exported files: there, or a message that says what to do."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from utils.core.errors import InputError


class MissingPackageError(InputError):
    """An optional package is not installed."""


def existing_file(file: str, include: str, *, folder: bool = False) -> Path:
    """The path of an exported file, or folder, that is there; else InputError.

    Args:
        include: its name for `export.py --include`.
    """
    path = Path(file).expanduser()
    if path.is_dir() if folder else path.is_file():
        return path
    other = path.exists()
    what = f"is no {'folder' if folder else 'file'}" if other else "no such file or folder"
    raise InputError(f"{file}: {what}; export one with: python export.py --weights model.pt --include {include}")


def import_runtime(package: str, *, needed_for: str, install: str = "") -> Any:
    """Import an optional package; MissingPackageError with the pip line where it is absent.

    Args:
        package: module to import.
        needed_for: what wants it, such as "ONNX files".
        install: what pip installs, where that is not the package's name.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        line = f"pip install {install or package}"
        if isinstance(error, ModuleNotFoundError) and error.name == package.partition(".")[0]:
            raise MissingPackageError(f"{needed_for} need the package {package}: {line}") from error
        raise InputError(f"{needed_for}: the package {package} is broken ({error}); {line} again") from error
