"""Sets that their publishers give only to people who register: archives that the user has put in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from utils.core.downloads import unpack
from utils.core.errors import InputError


def unpack_given(root: Path, archives: Mapping[str, str], page: str) -> None:
    """Unpack archives that lie in `root`, each once; they stay where they are.

    Args:
        archives: file names, and the folder below `root` for the content of each.
        page: where they come from.

    Raises:
        InputError: some are missing, or damaged.
    """
    marks = {name: root / ".fetched" / f"{name}.done" for name in archives}
    missing = [name for name, mark in marks.items() if not mark.exists() and not (root / name).is_file()]
    if missing:
        raise InputError(
            f"{root}: {', '.join(missing)} not there; only people who register get this set: download from {page}, "
            f"put the archives into {root} as they are and run the command again"
        )
    for name, mark in marks.items():
        if not mark.exists():
            unpack(root / name, root / archives[name])
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
