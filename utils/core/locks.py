"""Locks between processes, kept by the system: a process that ends, however it ends, lets go of its own."""

from __future__ import annotations

import os
import time
from importlib import import_module, util
from pathlib import Path
from types import TracebackType
from typing import Any

from utils.core.errors import InputError

RETRY_S = 0.05  # between two tries where the system cannot wait for a lock


class FileLock:
    """An exclusive lock on a file, which is made if need be and stays empty.

    Args:
        path: the file; its folder must be there.

    Raises:
        InputError: the file system has no locks (some network folders).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock; without `wait` False where another holder has it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            taken = _lock(descriptor, wait=wait)
        except OSError as error:
            os.close(descriptor)
            raise InputError(
                f"{self.path}: cannot be locked ({error.strerror}); use a folder on a local disk"
            ) from error
        if not taken:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go, also where loader processes have inherited the open file."""
        if self._descriptor is not None:
            _unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def _has_flock() -> bool:
    """Whether this is a Unix; Windows locks bytes of a file instead."""
    return util.find_spec("fcntl") is not None


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file; without `wait` False where it is taken."""
    return (_flock if _has_flock() else _lock_byte)(descriptor, wait=wait)


def _unlock(descriptor: int) -> None:
    """Undo `_lock`."""
    if _has_flock():
        unix: Any = import_module("fcntl")
        unix.flock(descriptor, unix.LOCK_UN)
    else:
        windows: Any = import_module("msvcrt")
        windows.locking(descriptor, windows.LK_UNLCK, 1)


def _flock(descriptor: int, *, wait: bool) -> bool:
    system: Any = import_module("fcntl")
    try:
        system.flock(descriptor, system.LOCK_EX | (0 if wait else system.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _lock_byte(descriptor: int, *, wait: bool) -> bool:
    system: Any = import_module("msvcrt")
    while True:
        try:
            system.locking(descriptor, system.LK_NBLCK, 1)
        except PermissionError:  # taken; any other error is not about who has it
            if not wait:
                return False
            time.sleep(RETRY_S)
        else:
            return True
