"""Data sets that you download by hand because their publishers require registration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from utils.core.errors import InputError
from utils.datasets.prepare.unpack import unpack_archive


def unpack_local_archives(root: Path, archives: Mapping[str, str], page: str) -> None:
    """Unpack archives in `root`, each once, without removing them.

    Args:
        archives: file name -> folder below `root` for its content.
        page: download page, for messages.

    Raises:
        InputError: some are missing or damaged.
    """
    marks = {name: root / ".fetched" / f"{name}.done" for name in archives}
    missing = [name for name, mark in marks.items() if not mark.exists() and not (root / name).is_file()]
    if missing:
        raise InputError(
            f"{root}: {', '.join(missing)} not found; this data set requires registration: download from {page}, "
            f"put the archives into {root} unchanged and run the command again"
        )
    for name, mark in marks.items():
        if not mark.exists():
            unpack_archive(root / name, root / archives[name])
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
