"""Exports that are folders: whole or absent, as `utils.core.files.atomic_write` is for files."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place when the block ends well and is removed when it does not.

    The temporary name ends like that of `target`, since some converters look at it.
    """
    folder = target.with_name(f".{uuid.uuid4().hex[:12]}.{target.name}")
    folder.mkdir(parents=True)
    try:
        yield folder
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        folder.replace(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
