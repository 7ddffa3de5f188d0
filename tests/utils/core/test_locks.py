from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from utils.core import locks
from utils.core.errors import InputError
from utils.core.locks import FileLock

HOLDER = """
import sys, time
from utils.locks import FileLock
lock = FileLock(sys.argv[1]); lock.acquire(); print("held", flush=True); time.sleep(60)
"""


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "a.lock"), FileLock(tmp_path / "a.lock")
    with first:
        assert not second.acquire(wait=False)
    assert second.acquire(wait=False)
    second.release()
    second.release()  # twice is harmless


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    file, root = tmp_path / "a.lock", Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    lock = FileLock(file)
    assert not lock.acquire(wait=False)
    process.kill()
    process.wait()
    process.stdout.close()
    assert lock.acquire(wait=False)
    lock.release()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, *, wait: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "_lock", refuse)
    with pytest.raises(InputError, match=r"a\.lock: cannot be locked \(No locks available\)"):
        FileLock(tmp_path / "a.lock").acquire()


def test_byte_locks_stand_in_where_there_is_no_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mock of the Windows module: the calls it gets, and what a taken byte means."""
    calls: list[tuple[int, int]] = []
    taken: list[bool] = [True]

    def locking(descriptor: int, mode: int, size: int) -> None:
        calls.append((mode, size))
        if mode == 1 and taken.pop():
            raise PermissionError(13, "Permission denied")

    mock = types.SimpleNamespace(locking=locking, LK_NBLCK=1, LK_UNLCK=2)
    monkeypatch.setattr(locks, "_has_flock", lambda: False)
    monkeypatch.setattr(locks, "import_module", lambda name: {"msvcrt": mock}[name])
    lock = FileLock(tmp_path / "a.lock")
    assert not lock.acquire(wait=False)
    taken[:] = [False, True]
    assert lock.acquire()  # tries again
    lock.release()
    assert calls == [(1, 1), (1, 1), (1, 1), (2, 1)]
