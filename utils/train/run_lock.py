"""Lock of a run folder: one process at a time trains in it."""

from __future__ import annotations

import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from utils.core.errors import InputError
from utils.core.files import make_run_folder, remove_temporary_files
from utils.core.logging import LOGGER

LOCK_FILE = ".lock"
WAIT_S = 20.0  # a killed process keeps its locks until its memory is freed
POLL_S = 0.1
HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # by another process

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # others may read the part before
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by loader processes


@dataclass(frozen=True)
class _Lock:
    """Open descriptors of a lock file (None on a file system without locks) and of its folder (None on Windows)."""

    file: int | None
    folder: int | None


_locks: dict[Path, _Lock] = {}  # of this process, by folder


def lock_run_folder(folder: Path, *, wait_s: float = WAIT_S) -> None:
    """Keep other processes from training in a folder until this one ends, however it ends, or releases it.

    Temporary files that a killed run left are removed. A process that has the lock may ask for it again. On a file
    system without locks there is a warning.

    Raises:
        InputError: another process still trains in the folder after `wait_s` seconds.
    """
    folder = folder.resolve()
    held = _locks.get(folder)
    if held is not None and held.file is not None and _is_same(held.file, folder / LOCK_FILE):
        return
    _release(folder)
    try:
        file = _wait_for_lock(folder / LOCK_FILE, wait_s)
    except OSError as error:
        file = None
        LOGGER.warning(f"WARNING {folder}: cannot be locked ({error.strerror}); start no second run in this folder")
    else:
        remove_temporary_files(folder)
        remove_temporary_files(folder / "weights")
    _locks[folder] = _Lock(file, os.open(folder, os.O_RDONLY) if os.name == "posix" else None)


def restore_run_folder(folder: Path) -> bool:
    """Make and lock the folder of a run again if it or its settings were removed; returns whether they were.

    Raises:
        InputError: it cannot be created, or another run has a new folder of this name.
    """
    held, has_settings = _locks.get(folder.resolve()), (folder / "opt.yaml").exists()
    is_same = folder.is_dir() and (held is None or held.folder is None or _is_same(held.folder, folder))
    if is_same and (has_settings or held is None):
        return False
    if has_settings:
        raise InputError(f"{folder}: removed during the run, and since then used by another one; start this run again")
    make_run_folder(folder, exist_ok=True)
    lock_run_folder(folder, wait_s=0)
    return True


@contextmanager
def run_locks() -> Iterator[None]:
    """Release the folders that are locked in this block at its end."""
    before = set(_locks)
    try:
        yield
    finally:
        for folder in _locks.keys() - before:
            _release(folder)


def _release(folder: Path) -> None:
    lock = _locks.pop(folder, _Lock(None, None))
    if lock.file is not None:
        if _is_same(lock.file, folder / LOCK_FILE):
            with suppress(OSError):  # Windows keeps open files
                (folder / LOCK_FILE).unlink()
        os.close(lock.file)
    if lock.folder is not None:
        os.close(lock.folder)


def _wait_for_lock(file: Path, wait_s: float) -> int:
    """Descriptor of the lock file once this process has the lock.

    Raises:
        InputError: another process has it after `wait_s` seconds.
        OSError: the file system has no locks, or the file cannot be opened.
    """
    deadline = time.monotonic() + wait_s
    is_reported = False
    while (descriptor := _try_lock(file)) is None:
        owner = _read_owner(file)
        if time.monotonic() > deadline:
            raise InputError(f"{file.parent}: {owner} trains in this folder; wait until it has ended, or stop it")
        if not is_reported:
            LOGGER.warning(f"WARNING {file.parent}: waiting up to {wait_s:.0f} s for {owner} to end")
        is_reported = True
        time.sleep(POLL_S)
    return descriptor


def _try_lock(file: Path) -> int | None:
    """Descriptor of the locked file; None if another process has the lock."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(descriptor)
            if _is_same(descriptor, file):  # else its owner has removed it meanwhile
                _write_owner(descriptor)
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in HELD:
                return None
            raise
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file or folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _write_owner(descriptor: int) -> None:
    with suppress(OSError):  # the disk may be full
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())


def _read_owner(file: Path) -> str:
    with suppress(OSError), file.open("rb") as content:
        return content.read(100).decode(errors="replace").strip() or "another process"
    return "another process"
