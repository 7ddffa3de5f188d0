"""Atomic writes of folders, the counterpart of `utils.core.files.atomic_write`."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `target` when the block succeeds and is removed when it fails.

    The temporary name has the suffix of `target`, which some converters require.
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
