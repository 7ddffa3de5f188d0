from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.core.errors import StoppedError
from utils.train.stop_request import StopRequest


@pytest.fixture(autouse=True)
def restore_signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, handler)


def test_no_resume(tmp_path: Path) -> None:
    with StopRequest(tmp_path) as stop:
        stop.check()
        assert not stop.after_epoch()


def test_a_stop_file_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "stop"
    file.touch()  # of an earlier run
    with StopRequest(tmp_path) as stop:
        assert not stop.after_epoch()
        file.touch()
        stop.check()  # the epoch goes on
        assert stop.after_epoch()
        assert not file.exists()
        assert not stop.after_epoch()


def test_sigterm_stops_at_the_next_check_only(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(tmp_path) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # a second one ends the process
        with pytest.raises(StoppedError, match="SIGTERM"):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) is before


def test_terminated_loader_is_part_of_the_stop(tmp_path: Path) -> None:
    died = "DataLoader worker (pid 7) is killed by signal: Terminated."
    with pytest.raises(RuntimeError, match="pid 7"), StopRequest(tmp_path):
        raise RuntimeError(died)
    with pytest.raises(StoppedError, match=r"SIGTERM.*pid 7"), StopRequest(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError(died)


def test_other_threads_support_the_stop_file_only(tmp_path: Path) -> None:
    before, heard = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with StopRequest(tmp_path) as stop:
            (tmp_path / "stop").touch()
            heard.append(stop.after_epoch())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert heard == [True]
    assert signal.getsignal(signal.SIGTERM) is before
