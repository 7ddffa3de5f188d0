"""Optional packages and exported files, with errors that say how to get them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from utils.core.errors import InputError


class MissingPackageError(InputError):
    """An optional package is not installed."""


def find_exported_file(file: str, include: str, *, folder: bool = False) -> Path:
    """Path of an existing exported file or folder; InputError if there is none.

    Args:
        include: name of the format for `export.py --include`.
    """
    path = Path(file).expanduser()
    if path.is_dir() if folder else path.is_file():
        return path
    problem = f"not a {'folder' if folder else 'file'}" if path.exists() else "no such file or folder"
    raise InputError(f"{file}: {problem}; export one with: python export.py --weights model.pt --include {include}")


def import_runtime(package: str, *, needed_for: str, install: str = "") -> Any:
    """Import an optional package; MissingPackageError with the pip command if it is not installed.

    Args:
        package: module to import.
        needed_for: what needs it, in the plural, such as "ONNX files".
        install: name for pip, if different.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        command = f"pip install {install or package}"
        if isinstance(error, ModuleNotFoundError) and error.name == package.partition(".")[0]:
            raise MissingPackageError(f"{needed_for} need the package {package}: {command}") from error
        raise InputError(f"{needed_for}: the package {package} is broken ({error}); reinstall it: {command}") from error
