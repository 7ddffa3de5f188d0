from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from utils.core.errors import InputError
from utils.train import run_lock
from utils.train.run_lock import LOCK_FILE, lock_run_folder, restore_run_folder, run_locks

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with run_locks():
        yield tmp_path


@contextmanager
def other_process(folder: Path, code: str = "sys.stdin.readline()") -> Iterator[subprocess.Popen[str]]:
    """Another process that has locked the folder."""
    lines = ("import os, sys, time", "from pathlib import Path", "from utils.train.run_lock import lock_run_folder")
    script = "\n".join([*lines, "lock_run_folder(Path(sys.argv[1]))", "print('locked', flush=True)", code])
    command = [sys.executable, "-c", script, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, **pipes)  # type: ignore[call-overload]
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_second_process_is_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with other_process(folder) as other:
        started = time.monotonic()
        with pytest.raises(InputError, match=rf"{folder}: process {other.pid} on .* trains in this folder; wait until"):
            lock_run_folder(folder, wait_s=0.3)
        assert 0.3 <= time.monotonic() - started < 5
    assert "waiting up to 0 s for process" in caplog.text
    lock_run_folder(folder, wait_s=5)


@pytest.mark.skipif(os.name != "posix", reason="forks and kills as POSIX does")
def test_lock_ends_with_a_killed_process_though_its_children_live(folder: Path) -> None:
    """Loader processes outlive a killed training process by seconds."""
    code = "child = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(60)"
    with other_process(folder, code) as other:
        assert other.stdout is not None
        child = int(other.stdout.readline())
        other.send_signal(signal.SIGKILL)
        other.wait()
        try:
            lock_run_folder(folder, wait_s=5)
            os.kill(child, 0)  # it is alive
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_process_that_is_about_to_end_is_waited_for(folder: Path) -> None:
    with other_process(folder, "time.sleep(0.7)"):
        lock_run_folder(folder, wait_s=10)


def test_same_process_locks_again_and_release_leaves_no_file(tmp_path: Path) -> None:
    with run_locks():
        lock_run_folder(tmp_path)
        with run_locks():
            lock_run_folder(tmp_path)
        assert (tmp_path / LOCK_FILE).exists()  # held by the outer block
    assert not list(tmp_path.iterdir())
    with other_process(tmp_path):
        pass


def test_lock_of_a_file_that_was_removed_meanwhile_does_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two processes wait: the first one got the lock and removed the file at its end."""
    lock, removed = run_lock._lock, []

    def remove_first(descriptor: int) -> None:
        if not removed:
            (folder / LOCK_FILE).unlink()
            removed.append(descriptor)
        lock(descriptor)

    monkeypatch.setattr(run_lock, "_lock", remove_first)
    lock_run_folder(folder)
    assert (folder / LOCK_FILE).exists()


def test_temporary_files_of_a_killed_run_are_removed(folder: Path) -> None:
    (folder / "weights").mkdir()
    leftovers = [folder / ".opt.yaml.0123456789ab.tmp", folder / "weights/.last.pt.0123456789ab.tmp"]
    for file in (*leftovers, folder / "weights/last.pt"):
        file.touch()
    lock_run_folder(folder)
    assert not any(file.exists() for file in leftovers)
    assert (folder / "weights/last.pt").exists()


def test_file_system_without_locks(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    leftover = folder / ".last.pt.0123456789ab.tmp"
    leftover.touch()
    (folder / LOCK_FILE).symlink_to("nowhere")  # not opened
    with caplog.at_level(logging.WARNING, "openyolov5"):
        lock_run_folder(folder)
    assert f"{folder}: cannot be locked" in caplog.text
    assert leftover.exists()  # another process may be writing it


# -- removed folders --------------------------------------------------------------------------------------------------


def test_removed_folder_is_made_and_locked_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs/exp"
    folder.mkdir(parents=True)
    with run_locks():
        lock_run_folder(folder)
        (folder / "opt.yaml").touch()
        assert not restore_run_folder(folder)
        shutil.rmtree(tmp_path / "runs")
        assert restore_run_folder(folder)
        assert (folder / LOCK_FILE).exists()
        (folder / "opt.yaml").touch()
        assert not restore_run_folder(folder)


def test_emptied_folder_is_locked_again(folder: Path) -> None:
    lock_run_folder(folder)
    (folder / LOCK_FILE).unlink()
    assert restore_run_folder(folder)
    assert (folder / LOCK_FILE).exists()


@pytest.mark.parametrize("alive", [True, False])
def test_folder_that_another_run_has_taken_is_not_written_to(alive: bool, tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    folder.mkdir()
    with run_locks():
        lock_run_folder(folder)
        (folder / "opt.yaml").touch()
        shutil.rmtree(folder)
        folder.mkdir()
        if not alive:
            (folder / "opt.yaml").touch()
            with pytest.raises(InputError, match=r"exp: removed during the run, and since then used by another one"):
                restore_run_folder(folder)
            return
        with other_process(folder), pytest.raises(InputError, match=r"exp: process .* trains in this folder"):
            restore_run_folder(folder)


def test_folder_that_was_never_locked_is_left_alone(tmp_path: Path) -> None:
    assert not restore_run_folder(tmp_path)
